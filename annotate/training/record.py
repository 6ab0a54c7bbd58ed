"""Write down a training: the curve of its epochs, and the folder of the model with its lineage."""

from __future__ import annotations

import dataclasses
import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from annotate import __version__
from annotate.dataset.folder import Dataset
from annotate.detectors.run import DETECTORS, Detector
from annotate.evaluation import metrics
from annotate.files import sha256, write_text
from annotate.training.content import DatasetContent
from annotate.training.inference import detect_images
from annotate.training.trainer import EpochReport, TrainedWeights, TrainingFrame, TrainingPlan
from annotate.vocabulary import read_vocabulary
from annotate.weights import lineage

CURVE_FILE = "curve.csv"
_CANDIDATE_SCORE = 0.02  # boxes below it are not considered for the threshold
_DEFAULT_THRESHOLD = 0.25  # of a model that finds nothing on val


class Curve:
    """The loss and AP50 of each epoch, in a CSV file that is written again after each."""

    def __init__(self, path: Path) -> None:
        self._path, self._lines = path, dict[int, str]()
        for line in path.read_text("utf-8").splitlines()[1:] if path.exists() else ():
            self._lines[int(line.partition(",")[0])] = line

    def add(self, report: EpochReport) -> None:
        """Add an epoch, and write the file."""
        ap50 = "" if report.ap50 is None else f"{report.ap50:.4f}"
        self._lines[report.epoch] = f"{report.epoch},{report.loss:.5f},{ap50}"
        write_text(self._path, self.text())

    def text(self) -> str:
        """Format the table as CSV."""
        rows = [line for _, line in sorted(self._lines.items())]
        return "\n".join(["epoch,loss,ap50", *rows]) + "\n"


@dataclass(frozen=True)
class Record:
    """What is written down about a training at its end."""

    trainer: str
    dataset: Dataset
    content: DatasetContent
    plan: TrainingPlan
    settings: Mapping[str, Any]
    weights: TrainedWeights
    curve: Curve

    def write(self, folder: Path) -> None:
        """Write the model's folder: weights, vocabulary, curve, lineage with the threshold."""
        name = f"weights{self.weights.path.suffix}"
        shutil.copyfile(self.weights.path, folder / name)
        write_text(folder / lineage.VOCABULARY_FILE, vocabulary_toml(self.plan.classes))
        write_text(folder / CURVE_FILE, self.curve.text())
        first = self._lineage(folder / name, _DEFAULT_THRESHOLD, {})
        first.write(folder)
        vocabulary = read_vocabulary(folder / lineage.VOCABULARY_FILE)
        detector = DETECTORS.load(
            self.weights.detector, vocabulary, model=str(folder), min_score=_CANDIDATE_SCORE
        )
        threshold, results = measure(detector, self.plan.val, self.plan.classes)
        dataclasses.replace(first, threshold=threshold, results={"val": results}).write(folder)

    def _lineage(
        self, weights_path: Path, threshold: float, results: Mapping[str, Any]
    ) -> lineage.Lineage:
        plan, weights = self.plan, self.weights
        settings = {**self.settings, **weights.settings}
        trainer = {"name": self.trainer, "version": __version__, "seed": plan.seed}
        return lineage.Lineage(
            weights=weights_path.name,
            detector=weights.detector,
            tensor_sha256=weights.tensor_sha256,
            file_sha256=sha256(weights_path),
            licence=weights.licence,
            classes=plan.classes,
            threshold=threshold,
            image_size=plan.image_size,
            trainer={**trainer, "settings": settings},
            dataset=self._dataset_entry(),
            parent=None if plan.parent is None else parent_entry(plan.parent),
            results=results,
            environment=environment(plan.threads),
            runs=({"epochs": list(weights.epochs), "resumed": weights.epochs[0] > 1},),
            deterministic=weights.deterministic,
        )

    def _dataset_entry(self) -> dict[str, Any]:
        content = self.content
        splits = ("train", "val")
        return {
            "path": str(self.dataset.path.resolve()),
            "sha256": content.sha256,
            "split_sha256": content.split_sha256,
            "classes": list(content.classes),
            "frames": {split: len(content.frames[split]) for split in splits},
            "objects": {split: content.count_objects(split) for split in splits},
            "clips": {n: clip.get("fingerprint") for n, clip in self.dataset.clips.items()},
            "sources": [str(source.get("items", "")) for source in self.dataset.sources],
        }


def parent_entry(path: Path) -> dict[str, Any]:
    """Describe the weights that a training began with."""
    entry: dict[str, Any] = {"name": path.name, "file_sha256": sha256(path)}
    if lineage.is_model(path):
        model = lineage.read_model_folder(path)
        entry |= {"name": model.folder.name, "tensor_sha256": model.lineage.tensor_sha256}
        entry |= {"licence": model.lineage.licence}
    return entry


def environment(threads: int) -> dict[str, Any]:
    """Describe what the numbers of a training may depend on."""
    return {
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "onnxruntime": version("onnxruntime"),
        "machine": platform.machine(),
        "threads": threads,
        "device": "cpu",
    }


def vocabulary_toml(classes: tuple[str, ...]) -> str:
    """Write a vocabulary of classes, in the order of their ids."""
    return "".join(f"[classes.{json.dumps(name, ensure_ascii=False)}]\n" for name in classes)


def measure(
    detector: Detector, frames: Sequence[TrainingFrame], classes: Sequence[str]
) -> tuple[float, dict[str, float]]:
    """Run a detector over frames with true objects: the threshold of the best F1, and measures."""
    truth = {(each.item.video, each.item.frame): each.item.objects for each in frames}
    images = ((each.image, each.item) for each in frames)
    found = {(i.video, i.frame): i.objects for i in detect_images(detector, images, "model")}
    ap, ap50 = metrics.average_precision(truth, found, classes)
    results = {"ap": round(ap, 4), "ap50": round(ap50, 4)}
    point = metrics.precision_recall_curve(truth, found).best_point
    if point is None:
        return _DEFAULT_THRESHOLD, results
    precision, recall, threshold = point
    results |= {"precision": round(precision, 4), "recall": round(recall, 4)}
    return round(threshold, 4), results
