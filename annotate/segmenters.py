"""Cut a frame into all its parts: the Segmenter contract, the run, and the segmenters.

`slic` gives superpixels (Achanta et al. 2012) by scikit-image and needs no weights. `sam2` gives
the masks of Meta's automatic mask generator: a grid of points through SAM 2's image predictor.
Every part has the class `segment`.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import supervision as sv

from annotate.errors import PromptError, needs
from annotate.items import detections, journal, masks, records
from annotate.items.records import Frame, Item, Rle
from annotate.plugins import FAMILIES, Family
from annotate.sam2 import official
from annotate.video import reader
from annotate.video.reader import FrameSelection

PART_LABEL = "segment"  # the class of every part: nobody has said yet what it is


class Segmenter(Protocol):
    """A frozen dataclass whose fields are its options."""

    def segment(self, frame: Frame) -> sv.Detections:
        """The parts of a picture.

        `mask` (compact, where they are many) and `confidence` are always set, NaN where there is no
        score; `class_id` is 0.
        """


SEGMENTERS: Family[Segmenter] = FAMILIES["segmenters"]


def parts_to_detections(
    rles: Sequence[Rle], scores: Sequence[float], size_wh: tuple[int, int]
) -> sv.Detections:
    """Parts as what a segmenter returns; empty masks are left out."""
    import supervision as sv

    found = [(r, box, s) for r, s in zip(rles, scores, strict=True) if (box := masks.box(r))]
    if not found:
        return sv.Detections.empty()
    kept, boxes, confidences = zip(*found, strict=True)
    xyxy, (width, height) = np.array(boxes, np.float64), size_wh
    return sv.Detections(
        xyxy,
        mask=sv.CompactMask.from_coco_rle(kept, xyxy, (height, width)),
        confidence=np.array(confidences, np.float64),
        class_id=np.zeros(len(kept), int),
    )


@dataclass(frozen=True)
class Job:
    """A segmenter, a clip or picture, and which frames to cut up; `source` is its name."""

    segmenter: Segmenter
    source: str
    clip: Path
    selection: FrameSelection = field(default_factory=FrameSelection)

    def header(self) -> records.Header:
        """What the file of items is stamped with: everything that shapes it."""
        told: dict[str, Any] = {"segmenter": self.source}
        told |= dataclasses.asdict(self.segmenter)  # type: ignore[call-overload]  # a dataclass
        told |= dataclasses.asdict(self.selection)
        words = {"name": "", "sha256": "", "labels": [PART_LABEL]}
        clip = reader.header_entry(reader.probe(self.clip))
        return records.Header("segment", told, vocabulary=words, videos=clip)


def run_to_file(
    job: Job,
    out: Path,
    *,
    force: bool = False,
    progress: Callable[[Item], None] = lambda item: None,
) -> bool:
    """Write a file of items; goes on behind the last frame that an equal run wrote.

    Returns False when the file was complete already.

    Raises:
        SettingsDiffer, OutputError, VideoError, MissingPackage: see `annotate.errors`.
    """

    def items_after(last: int) -> Iterator[Item]:
        for frame in job.selection.frames(job.clip):
            if frame.index > last:
                found = job.segmenter.segment(frame)
                yield detections.item_from_detections(frame, found, {0: PART_LABEL}, job.source)

    return journal.resume_items(out, job.header(), items_after, force=force, progress=progress)


@dataclass(frozen=True)
class SlicSegmenter:
    """SLIC superpixels (Achanta 2012) by scikit-image; together they cover the picture.

    `parts` is about how many. `compactness` weighs nearness against likeness of colour: parts are
    the squarer the higher it is. `blur` is a Gaussian's sigma in pixels.
    """

    n_segments: int = 200
    compactness: float = 10.0
    sigma: float = 1.0

    def __post_init__(self) -> None:
        if self.n_segments < 1 or self.compactness <= 0 or self.sigma < 0:
            raise PromptError("slic: parts and compactness must be above 0, blur at least 0")

    def segment(self, frame: Frame) -> sv.Detections:
        """Every superpixel of a picture, each in one piece; they have no score."""
        slic = needs("skimage.segmentation").slic
        parts = slic(
            frame.image,
            n_segments=self.n_segments,
            compactness=self.compactness,
            sigma=self.sigma,
            start_label=0,
        )
        found = [masks.encode(parts == part) for part in np.unique(parts)]
        return parts_to_detections(found, [float("nan")] * len(found), frame.size_wh)


@dataclass(frozen=True)
class Sam2Segmenter:
    """A grid of points through SAM 2's image predictor; masks are filtered, doubles dropped.

    `grid` points a side are asked, `at_once` of them together. A mask stays whose IoU, as the model
    predicts it, is at least `least_iou`, and which hardly changes with the threshold (`stability`);
    of two whose boxes overlap by more than `twice` (IoU) the better one. `layers` of crops are
    looked at besides. `smallest` is what a part or hole must have in pixels to stay. The defaults
    are Meta's, made for the large model.
    """

    model: str = "sam2.1-tiny"
    device: str | None = None
    dtype: str | None = None
    size: int | None = None
    points_per_side: int = 32
    batch_size: int = 64
    min_iou: float = 0.8
    min_stability: float = 0.95
    nms_iou: float = 0.7
    crop_layers: int = 0
    min_area: int = 0
    random_weights: int | None = None

    def __post_init__(self) -> None:
        if self.points_per_side < 1 or self.batch_size < 1:
            raise PromptError("sam2: grid and at_once must be at least 1")

    def segment(self, frame: Frame) -> sv.Detections:
        """All masks of a picture that pass; the score is the model's own of its mask."""
        torch = needs("torch")
        generator, kind = _mask_generator(self)
        low = kind != torch.float32
        place = generator.predictor.device.type
        with torch.inference_mode(), torch.autocast(place, kind, enabled=low):
            found = generator.generate(frame.image)
        rles = [{**each["segmentation"], "size": list(frame.image.shape[:2])} for each in found]
        return parts_to_detections(rles, [each["predicted_iou"] for each in found], frame.size_wh)


@lru_cache(maxsize=1)
def _mask_generator(segmenter: Sam2Segmenter) -> tuple[Any, Any]:
    """The package's generator, and the numbers it computes in."""
    needs("sam2")
    from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator

    network = official.load(
        segmenter.model,
        segmenter.device,
        segmenter.dtype,
        segmenter.size,
        False,
        segmenter.random_weights,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch's, of the package's jit.script
        generator = SAM2AutomaticMaskGenerator(
            network.model,
            points_per_side=segmenter.points_per_side,
            points_per_batch=segmenter.batch_size,
            pred_iou_thresh=segmenter.min_iou,
            stability_score_thresh=segmenter.min_stability,
            box_nms_thresh=segmenter.nms_iou,
            crop_n_layers=segmenter.crop_layers,
            min_mask_region_area=segmenter.min_area,
            output_mode="coco_rle",
        )
    side = network.model.image_size // 4
    # the predictor takes the sizes of its feature maps for those of an input of 1024
    generator.predictor._bb_feat_sizes = [(side >> n, side >> n) for n in range(3)]
    return generator, network.dtype
