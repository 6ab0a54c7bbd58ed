"""Compare a trained model with its parent on a gold set: run both, and write what they found."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from annotate.dataset.folder import Dataset
from annotate.detectors.run import DETECTORS, Detector
from annotate.errors import PromptError
from annotate.evaluation.gold import before_after_report
from annotate.evaluation.gold.before_after import BeforeAfter, ModelOnGold, compare_models
from annotate.evaluation.gold.gold_set import GoldSet, open_gold, refuse_overlaps
from annotate.files import json_digest, sha256
from annotate.items.records import Vocabulary
from annotate.training.inference import detect_images, list_images
from annotate.training.record import Record, measure
from annotate.training.trainer import TrainingFrame
from annotate.weights import lineage

_CANDIDATE_SCORE = 0.01  # boxes below it would hardly change average precision


def open_checked_gold(path: Path, dataset: Dataset) -> GoldSet:
    """Open a gold set, sealed at its first use, that shares nothing with the dataset.

    Raises:
        DatasetError: it was changed, or overlaps with the dataset: names what both have.
        OutputError: the seal cannot be written.
    """
    gold = open_gold(path)
    refuse_overlaps(dataset, gold)
    return gold


def evaluate_on_gold(gold: GoldSet, records: Sequence[Record], folder: Path, others: Path) -> None:
    """Compare the model in `folder`, of the first record, and write the results into the folder.

    The models of the other records, one for each further seed, are written into `others`.

    Raises:
        OutputError: nothing can be written there, or the look at the gold set cannot be counted.
        AnnotateError: a model cannot be run.
    """
    folders = [folder]
    for record in records[1:]:
        folders.append(others / str(record.plan.seed))
        folders[-1].mkdir(parents=True, exist_ok=True)
        record.write(folders[-1])
    plan = records[0].plan
    compared = compare_on_gold(gold, folders, plan.parent, plan.val)
    before_after_report.write_before_after(compared, folder)
    model = lineage.read_lineage(folder / lineage.LINEAGE_FILE)
    dataclasses.replace(
        model,
        gold={"sha256": gold.sha256, "looks": compared.looks},
        results={**model.results, "gold": compared.record()},
    ).write(folder)


def compare_on_gold(
    gold: GoldSet,
    folders: Sequence[Path],
    parent: Path | None,
    val: Sequence[TrainingFrame],
) -> BeforeAfter:
    """Compare trained models, one for each seed, with the weights that they began with.

    The threshold of the parent is the best on `val` too. A parent that knows none of the classes of
    the gold set is left out.

    Raises:
        OutputError: the look at the gold set cannot be counted.
        AnnotateError: a model cannot be run.
    """
    after = []
    for folder in folders:
        model = lineage.read_model_folder(folder)
        detector = _load(model.lineage.detector, folder, gold)
        digest = model.lineage.tensor_sha256
        after.append(_on_gold(gold, "the trained model", detector, model.threshold, digest))
    before = None if parent is None else _parent_on_gold(gold, parent, val)
    return compare_models(gold, after, before)


def _parent_on_gold(
    gold: GoldSet, parent: Path, val: Sequence[TrainingFrame]
) -> ModelOnGold | None:
    name, model, digest = "yolo", parent, sha256(parent)
    if lineage.is_model(parent):
        trained = lineage.read_model_folder(parent)
        name, model = trained.lineage.detector, trained.folder
        digest = trained.lineage.tensor_sha256
    elif parent.suffix != ".pt":
        return None  # no detector runs it as it is
    try:
        detector = _load(name, model, gold)
    except PromptError:
        return None
    threshold, _ = measure(detector, val, gold.dataset.classes)
    return _on_gold(gold, "its parent", detector, threshold, digest)


def _load(name: str, model: Path, gold: GoldSet) -> Detector:
    classes: Mapping[str, Any] = {label: {} for label in gold.dataset.classes}
    vocabulary = Vocabulary("classes of the gold set", classes, json_digest(classes))
    detector = DETECTORS.load(name, vocabulary, model=str(model), min_score=_CANDIDATE_SCORE)
    detector.ready()  # type: ignore[attr-defined]  # both detectors have it
    return detector


def _on_gold(
    gold: GoldSet, name: str, detector: Detector, threshold: float, digest: str
) -> ModelOnGold:
    items = tuple(detect_images(detector, list_images(gold.dataset), name))
    return ModelOnGold(name, items, threshold, digest)
