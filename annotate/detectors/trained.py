"""Detect with a model that `annotate train` made by the trainer `light`: ONNX, no PyTorch.

The model is the folder that the training wrote. Its classes, the size of its pictures and the score
from which on a box counts are in its lineage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import supervision as sv

from annotate.detectors.tiling import BoxTable, Tiling, detect_tiled
from annotate.detectors.yolo import match_classes
from annotate.errors import AnnotateError, MissingWeights, WeightsError
from annotate.items.boxes import iou_matrix
from annotate.items.records import Frame, Picture, Vocabulary
from annotate.vocabulary import Phrase
from annotate.weights.lineage import TrainedModel, read_model_folder
from annotate.weights.store import weights_path

Floats = npt.NDArray[np.float32]
SIDE_MULTIPLE = 64  # of a picture's sides, pixels
CELL_PX = 8  # side of a cell of the model's maps, in pixels of their scale
UNIT_PX = 24.0  # distance of a side for an output of 0
MAX_CANDIDATES = 1000  # boxes of a picture, of the highest scores, that are compared
VOTER_SCORE = 0.02  # of the boxes whose mean is taken
VOTER_IOU = 0.5  # of a box with those that it is the mean of
DETECTOR = "trained"  # the name of the plugin that runs such models


@dataclass(frozen=True)
class TrainedDetector:
    """Find boxes of the classes that a model was trained on by `light`.

    `model` is the folder that `annotate train` wrote. A class of the vocabulary names a class of
    the model (`trained = "monster"`, or a list), or has the same name. Boxes with a score below
    `min_score`, by default the threshold of the model, are dropped. Of two boxes of a class with an
    IoU over `nms_iou`, the one with the lower score is dropped; the other becomes the mean of the
    boxes round it. With `tile`, in pixels, the network runs on the whole picture and on square
    tiles of that side, which overlap by the fraction `overlap`.
    """

    vocabulary: Vocabulary
    model: str = ""
    min_score: float | None = None
    nms_iou: float = 0.5
    tile: int = 0
    overlap: float = 0.2

    def __post_init__(self) -> None:
        _ = self._tiling  # raises for wrong options at once
        if self.min_score is not None and not 0 <= self.min_score < 1:
            raise AnnotateError(f"min_score must be 0 to 1, got {self.min_score}")

    def ready(self) -> None:
        """Check for a model that knows the classes.

        Raises:
            WeightsError, UnknownName, PromptError: say what is missing.
        """
        _ = self._classes

    def propose(self, frames: list[Frame]) -> list[sv.Detections]:
        """Propose boxes for each frame, best first."""
        if not frames:
            return []
        return detect_tiled(frames, tuple(self._classes.values()), self._tiling, self._predict)

    def _predict(self, images: list[Picture]) -> list[BoxTable]:
        rows = {class_id: row for row, class_id in enumerate(self._classes)}
        limit = self._trained.threshold if self.min_score is None else self.min_score
        tables = []
        for image in images:
            table = find_boxes(self._session, image, self._trained.image_size, limit, self.nms_iou)
            table = table[np.isin(table[:, 5], list(rows))]
            table[:, 5] = [rows[int(class_id)] for class_id in table[:, 5]]
            tables.append(table)
        return tables

    @cached_property
    def _tiling(self) -> Tiling:
        return Tiling(self.tile, self.overlap, self.nms_iou, 1, agnostic=False)

    @cached_property
    def _trained(self) -> TrainedModel:
        if not self.model:
            raise MissingWeights("trained: give `model`, the folder that `annotate train` wrote")
        model = read_model_folder(weights_path(self.model))
        if model.lineage.detector != DETECTOR:
            raise WeightsError(
                f"{self.model}: trained for the detector {model.lineage.detector}; give that one"
            )
        return model

    @cached_property
    def _session(self) -> Any:
        return start_session(str(self._trained.weights_path))

    @cached_property
    def _classes(self) -> dict[int, Phrase]:
        """The model's classes to look for, by number, with the phrase of each."""
        return match_classes(self.vocabulary, list(self._trained.classes), self.model, DETECTOR)


def find_boxes(
    session: Any, image: Picture, image_size: int, min_score: float, nms_iou: float
) -> BoxTable:
    """Find the boxes of all classes on one picture: (n, 6), class in the last column.

    Boxes below `min_score` are dropped last: from 0.02 on, it changes no box that is kept.
    """
    height, width = image.shape[:2]
    size_wh = fit_size((width, height), image_size)
    shrinks = size_wh[0] < image.shape[1]
    small = cv2.resize(
        image, size_wh, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    outputs = run_session(session, {"image": small[None]})
    table = decode(outputs, min(min_score, VOTER_SCORE))
    table = to_picture(table, size_wh, (image.shape[1], image.shape[0]), nms_iou)
    found: BoxTable = table[table[:, 4] >= min_score]
    return found


def to_picture(
    table: BoxTable, from_wh: tuple[int, int], to_wh: tuple[int, int], nms_iou: float
) -> BoxTable:
    """Scale boxes from one size of a picture to another, clip them, and join duplicates."""
    table = table.copy()
    table[:, :4] *= np.tile(np.divide(to_wh, from_wh), 2)
    table[:, :4] = table[:, :4].clip(0, np.tile(to_wh, 2))
    has_area = (table[:, 0] < table[:, 2]) & (table[:, 1] < table[:, 3])
    table = table[has_area][:MAX_CANDIDATES]
    if not len(table):
        return table
    return vote(table[sv.box_non_max_suppression(table, nms_iou)], table)


def vote(kept: BoxTable, voters: BoxTable) -> BoxTable:
    """Move each box to the mean of the boxes of its class round it, weighted by squared scores.

    Each cell of the head judges the sides of a box by itself: their mean is nearer to the truth
    than what the cell with the highest score says (box voting, Gidaris and Komodakis, 2015).
    """
    near = iou_matrix(kept[:, :4], voters[:, :4]) >= VOTER_IOU
    weights = (near & (kept[:, 5, None] == voters[:, 5])) * voters[:, 4] ** 2
    boxes = weights @ voters[:, :4] / weights.sum(axis=1, keepdims=True)
    return np.concatenate([boxes, kept[:, 4:]], axis=1)


def fit_size(size_wh: tuple[int, int], longest_side: int) -> tuple[int, int]:
    """Scale a picture's size to `longest_side`, both sides rounded to multiples of 64."""
    scale = longest_side / max(size_wh)
    width, height = (
        max(round(side * scale / SIDE_MULTIPLE), 1) * SIDE_MULTIPLE for side in size_wh
    )
    return width, height


def start_session(model: bytes | str, threads: int = 0) -> Any:
    """Load an ONNX model on the CPU; 0 threads are as many as there are cores.

    A thread that waits sleeps: where other processes use the cores as well, threads that wait by
    spinning nearly double the CPU time.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_session(session: Any, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, Floats]:
    """Run a session: its outputs by name."""
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(arrays)), strict=True))


def decode(outputs: Mapping[str, Floats], min_score: float) -> BoxTable:
    """Decode the outputs of the head: rows of x1, y1, x2, y2, score, class, best first.

    The output of a scale is (1, 5 C, H, W): a logit of each class, then for each class the
    logarithms of the distances to the four sides, in units of 24 pixels of the scale.
    """
    tables = []
    for level in range(len(outputs)):
        output = outputs[f"last{level}"][0]
        count = len(output) // 5
        limit = np.log(max(min_score, 1e-6) / (1 - min_score))
        class_ids, rows, columns = np.nonzero(output[:count] >= limit)
        scores = 1 / (1 + np.exp(-output[class_ids, rows, columns].astype(np.float64)))
        sides = output[count:].reshape(count, 4, *output.shape[1:])[class_ids, :, rows, columns]
        sides = UNIT_PX * np.exp(np.clip(sides.astype(np.float64), -4, 4))
        xy = (np.stack([columns, rows], axis=1) + 0.5) * CELL_PX
        xyxy = np.concatenate([xy - sides[:, :2], xy + sides[:, 2:]], axis=1) * 2**level
        tables.append(np.column_stack([xyxy, scores, class_ids]))
    table = np.concatenate(tables)
    best: BoxTable = table[np.argsort(-table[:, 4], kind="stable")]
    return best
