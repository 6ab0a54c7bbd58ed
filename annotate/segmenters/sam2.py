"""Everything that SAM 2 sees on a picture, by Meta's own generator of masks."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import supervision as sv

from annotate import sam2_model, segment
from annotate.errors import PromptError, needs
from annotate.records import Frame


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
    grid: int = 32
    at_once: int = 64
    least_iou: float = 0.8
    stability: float = 0.95
    twice: float = 0.7
    layers: int = 0
    smallest: int = 0
    random_weights: int | None = None

    def __post_init__(self) -> None:
        if self.grid < 1 or self.at_once < 1:
            raise PromptError("sam2: grid and at_once must be at least 1")

    def segment(self, frame: Frame) -> sv.Detections:
        """All masks of a picture that pass; the score is the model's own of its mask."""
        torch = needs("torch")
        generator, kind = _generator(self)
        low = kind != torch.float32
        place = generator.predictor.device.type
        with torch.inference_mode(), torch.autocast(place, kind, enabled=low):
            found = generator.generate(frame.image)
        rles = [{**each["segmentation"], "size": list(frame.image.shape[:2])} for each in found]
        return segment.detections(rles, [each["predicted_iou"] for each in found], frame.size_wh)


@lru_cache(maxsize=1)
def _generator(options: Sam2Segmenter) -> tuple[Any, Any]:
    """The package's generator, and the numbers it computes in."""
    needs("sam2")
    from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator

    network = sam2_model.load(
        options.model, options.device, options.dtype, options.size, False, options.random_weights
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch's, of the package's jit.script
        generator = SAM2AutomaticMaskGenerator(
            network.model,
            points_per_side=options.grid,
            points_per_batch=options.at_once,
            pred_iou_thresh=options.least_iou,
            stability_score_thresh=options.stability,
            box_nms_thresh=options.twice,
            crop_n_layers=options.layers,
            min_mask_region_area=options.smallest,
            output_mode="coco_rle",
        )
    side = network.model.image_size // 4
    # the predictor takes the sizes of its feature maps for those of an input of 1024
    generator.predictor._bb_feat_sizes = [(side >> n, side >> n) for n in range(3)]
    return generator, network.dtype
