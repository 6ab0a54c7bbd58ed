"""Segment whole frames: the Segmenter contract, the resumable run, and two segmenters.

`slic` gives superpixels (Achanta et al. 2012) by scikit-image and needs no weights. `sam2` gives
the masks of Meta's automatic mask generator: a grid of points through SAM 2's image predictor.
Every segment has the class `segment`. The options have the names of the libraries' own parameters.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from annotate.errors import PromptError, needs
from annotate.items import detections, journal, masks, records
from annotate.items.records import Frame, Item, Rle
from annotate.plugins import FAMILIES, Family, optional_member
from annotate.sam2 import official
from annotate.video import reader
from annotate.video.reader import FrameSelection
from annotate.weights import identity

if TYPE_CHECKING:
    import supervision as sv

SEGMENT_LABEL = "segment"  # the class of every segment; a person names it later


class Segmenter(Protocol):
    """A frozen dataclass; its fields are its options.

    The optional method `ready()` raises what is missing, before a file is begun.
    """

    def segment(self, frame: Frame) -> sv.Detections:
        """Segment one image.

        `mask` and `confidence` are always set; the confidence is NaN where the segmenter gives no
        score. `class_id` is 0. Many masks should be a `sv.CompactMask`.
        """


SEGMENTERS: Family[Segmenter] = FAMILIES["segmenters"]


def segments_to_detections(
    rles: Sequence[Rle], scores: Sequence[float], size_wh: tuple[int, int]
) -> sv.Detections:
    """Make detections of run-length masks and their scores, without the empty masks."""
    import supervision as sv

    rows = [(r, box, s) for r, s in zip(rles, scores, strict=True) if (box := masks.box(r))]
    if not rows:
        return sv.Detections.empty()
    kept, boxes, confidences = zip(*rows, strict=True)
    xyxy, (width, height) = np.array(boxes, np.float64), size_wh
    return sv.Detections(
        xyxy,
        mask=sv.CompactMask.from_coco_rle(kept, xyxy, (height, width)),
        confidence=np.array(confidences, np.float64),
        class_id=np.zeros(len(kept), int),
    )


@dataclass(frozen=True)
class Job:
    """A segmenter, a clip or image, and the frames to segment; `source` is the segmenter's name."""

    segmenter: Segmenter
    source: str
    clip: Path
    selection: FrameSelection = field(default_factory=FrameSelection)

    def settings(self) -> dict[str, Any]:
        """Return the settings of the header: the segmenter's and the selection of frames."""
        settings: dict[str, Any] = {"segmenter": self.source}
        settings |= dataclasses.asdict(self.segmenter)  # type: ignore[call-overload]  # a dataclass
        settings |= identity.header_settings(self.segmenter)
        return settings | dataclasses.asdict(self.selection)

    def header(self) -> records.Header:
        """Make the header of the file of items: every setting that changes the items."""
        settings = self.settings()
        self.selection.check(self.clip)
        vocabulary = {"name": "", "sha256": "", "labels": [SEGMENT_LABEL]}
        videos = reader.header_entry(reader.probe(self.clip))
        return records.Header("segment", settings, vocabulary=vocabulary, videos=videos)


def run_to_file(
    job: Job,
    out: Path,
    *,
    force: bool = False,
    progress: Callable[[Item], None] = lambda item: None,
) -> bool:
    """Segment a clip into a file of items, and resume a file that an equal job left unfinished.

    Returns False if the file was complete already.

    Raises:
        SettingsDiffer, OutputError, VideoError, MissingPackage: see `annotate.errors`.
    """
    optional_member(job.segmenter, "ready")()

    def items_after(last: int) -> Iterator[Item]:
        for frame in job.selection.frames(job.clip):
            if frame.index > last:
                segments = job.segmenter.segment(frame)
                yield detections.item_from_detections(
                    frame, segments, {0: SEGMENT_LABEL}, job.source
                )

    return journal.resume_items(out, job.header(), items_after, force=force, progress=progress)


@dataclass(frozen=True)
class SlicSegmenter:
    """SLIC superpixels (Achanta 2012) by scikit-image; together they cover the image.

    The options are those of `skimage.segmentation.slic`: `n_segments` is the approximate number of
    superpixels, `compactness` the weight of distance against colour (higher gives squarer
    superpixels), and `sigma` the width in pixels of the Gaussian that smooths the image first.
    """

    n_segments: int = 200
    compactness: float = 10.0
    sigma: float = 1.0

    def __post_init__(self) -> None:
        if self.n_segments < 1 or self.compactness <= 0 or self.sigma < 0:
            raise PromptError(
                "slic: `n_segments` and `compactness` must be above 0, `sigma` must be at least 0"
            )

    def segment(self, frame: Frame) -> sv.Detections:
        """Segment one image into superpixels, each connected; they have no score."""
        slic = needs("skimage.segmentation").slic
        segment_ids = slic(
            frame.image,
            n_segments=self.n_segments,
            compactness=self.compactness,
            sigma=self.sigma,
            start_label=0,
        )
        rles = [masks.encode(segment_ids == number) for number in np.unique(segment_ids)]
        return segments_to_detections(rles, [float("nan")] * len(rles), frame.size_wh)


@dataclass(frozen=True)
class Sam2Segmenter:
    """SAM 2's automatic mask generator: a grid of points, with filtered and deduplicated masks.

    The options are those of Meta's `SAM2AutomaticMaskGenerator`, with its defaults, which were
    chosen for the large model. The grid has `points_per_side` points a side, and `points_per_batch`
    points go through the network together. A mask is kept if the IoU that the model predicts for
    it is at least `pred_iou_thresh`, and if it is stable when the threshold moves
    (`stability_score_thresh`). If the boxes of two masks have an IoU above `box_nms_thresh`, only
    the one with the higher score is kept. `crop_n_layers` layers of crops are segmented too.
    Regions and holes of fewer than `min_mask_region_area` pixels are removed.
    """

    model: str = "sam2.1-tiny"
    device: str | None = None
    dtype: str | None = None
    size: int | None = None
    points_per_side: int = 32
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.8
    stability_score_thresh: float = 0.95
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    min_mask_region_area: int = 0
    random_weights: int | None = None

    def __post_init__(self) -> None:
        if self.points_per_side < 1 or self.points_per_batch < 1:
            raise PromptError("sam2: `points_per_side` and `points_per_batch` must be at least 1")

    @cached_property
    def _weights_sha256(self) -> str:
        """The hash of the weights at their first use: a part of the key of the loaded network."""
        return identity.weights_sha256(self.model)

    def ready(self) -> None:
        """Load the network, or raise what is missing."""
        needs("torch", extra="sam2")
        _mask_generator(self, self._weights_sha256)

    def segment(self, frame: Frame) -> sv.Detections:
        """Segment one image; the score of a mask is the IoU that the model predicts for it."""
        torch = needs("torch", extra="sam2")
        generator, dtype = _mask_generator(self, self._weights_sha256)
        reduced = dtype != torch.float32
        device_type = generator.predictor.device.type
        with torch.inference_mode(), torch.autocast(device_type, dtype, enabled=reduced):
            generated = generator.generate(frame.image)
        size = list(frame.image.shape[:2])
        rles = [{**record["segmentation"], "size": size} for record in generated]
        scores = [record["predicted_iou"] for record in generated]
        return segments_to_detections(rles, scores, frame.size_wh)


@lru_cache(maxsize=1)  # `weights_sha256` is only a part of the key
def _mask_generator(segmenter: Sam2Segmenter, weights_sha256: str) -> tuple[Any, Any]:
    """Load the mask generator; returns the generator and the torch dtype of its network."""
    needs("sam2")
    from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator

    network = official.load(
        segmenter.model,
        segmenter.device,
        segmenter.dtype,
        segmenter.size,
        False,
        segmenter.random_weights,
        weights_sha256,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # from PyTorch, about jit.script in sam2
        generator = SAM2AutomaticMaskGenerator(
            network.model,
            points_per_side=segmenter.points_per_side,
            points_per_batch=segmenter.points_per_batch,
            pred_iou_thresh=segmenter.pred_iou_thresh,
            stability_score_thresh=segmenter.stability_score_thresh,
            box_nms_thresh=segmenter.box_nms_thresh,
            crop_n_layers=segmenter.crop_n_layers,
            min_mask_region_area=segmenter.min_mask_region_area,
            output_mode="coco_rle",
        )
    side = network.model.image_size // 4
    # the predictor assumes the feature map sizes of a 1024 pixel input
    generator.predictor._bb_feat_sizes = [(side >> n, side >> n) for n in range(3)]
    return generator, network.dtype
