"""Measure a learning curve over touches, and write its folder as a whole.

While it runs, everything that was computed is in the folder OUTPUT.work: a curve that was stopped
goes on from there. The results and the propagated items stay in the folder of the curve, so that
`force` with more touches, arms or seeds trains only the detectors that are new.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from annotate import __version__
from annotate.errors import AnnotateError, DatasetError, UnknownName
from annotate.evaluation.gold.gold_set import GoldSet
from annotate.files import (
    atomic_folder,
    read_json,
    refuse_existing,
    refuse_input,
    sha256,
    write_json,
)
from annotate.items.journal import check_same_settings, clip_paths
from annotate.learning_curve.arms import ARMS
from annotate.learning_curve.detector import HeadTrainer, Laboratory, load_trainer
from annotate.learning_curve.footage import only_boxes, read_footage
from annotate.learning_curve.labeller import Labeller, Labels
from annotate.learning_curve.plot import draw_curve
from annotate.learning_curve.propagation import Propagation
from annotate.learning_curve.results import PERFECT, CurveResult, CurveRow
from annotate.locking.locks import locked_folder
from annotate.plugins import option_fields
from annotate.progress import ProgressBar, no_progress
from annotate.propagators.job import PROPAGATORS, Propagator, propagator_settings
from annotate.training.checks import check_dataset, check_leaks
from annotate.training.gold import open_checked_gold
from annotate.training.trainer import TrainingFrame

CURVE_FILE, SETTINGS_FILE = "curve.csv", "settings.json"
KEPT_FOLDERS = "results", "propagated"  # in the folder of the curve, for a run with more of it
WORK_SUFFIX = ".work"


@dataclass(frozen=True)
class LearningCurve:
    """A learning curve to measure, with its settings.

    `truth` are files of items with the true objects of the clips to label, `val` those of clips
    that choose epoch and threshold, `gold` is a dataset on which the detectors are measured.
    `touches` are the numbers of touches that each arm may spend. `every` is the distance of the
    frames that may be labelled. Where no `classes` are given, all are labelled. `engine` is the
    propagator of the clicks, with its `engine_options`. All detectors are trained by `light`, with
    the `trainer_options`.
    """

    truth: Sequence[Path]
    val: Sequence[Path]
    gold: Path
    output: Path
    arms: Sequence[str] = tuple(ARMS)
    touches: Sequence[int] = (10, 20, 40, 80)
    seeds: int = 3
    every: int = 10
    epochs: int = 16
    image_size: int = 640
    classes: Sequence[str] = ()
    engine: str = "light"
    engine_options: Mapping[str, Any] = field(default_factory=lambda: {"fast": True})
    trainer_options: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 1

    def __post_init__(self) -> None:
        for arm in self.arms:
            if arm not in ARMS:
                raise UnknownName("arm", arm, ARMS)
        values = {"seeds": self.seeds, "every": self.every, "epochs": self.epochs}
        for name, value in {**values, "touches": min(self.touches, default=0)}.items():
            if value < 1:
                raise AnnotateError(f"`{name}` must be 1 or more, got {value}")
        if not self.truth or not self.val or not self.arms:
            raise AnnotateError("a curve needs clips to label, clips as `val`, and one of `arms`")

    def settings(self, engine: Propagator, trainer: HeadTrainer, gold: GoldSet) -> dict[str, Any]:
        """Return everything that shapes the results of an arm."""
        names = option_fields(type(trainer))
        return {
            "annotate": __version__,
            "truth": [sha256(path) for path in self.truth],
            "val": [sha256(path) for path in self.val],
            "gold": gold.sha256,
            "classes": sorted(self.classes),
            "every": self.every,
            "epochs": self.epochs,
            "image_size": self.image_size,
            "trainer": {"name": "light", **{name: getattr(trainer, name) for name in names}},
            "engine": {"name": self.engine, **propagator_settings(engine)},
        }


def measure_curve(
    curve: LearningCurve,
    *,
    force: bool = False,
    say: Callable[[str], None] = lambda line: None,
    progress: ProgressBar = no_progress,
) -> CurveResult:
    """Measure a curve and write its folder; one that was stopped goes on.

    `say` gets a line about each detector that was measured.

    Raises:
        DatasetError, ItemsError: the clips cannot be trained on, or overlap with each other.
        SettingsDiffer: a curve with other settings was stopped there; lists them.
        OutputError: the output exists, or cannot be written.
    """
    inputs = [*curve.truth, *curve.val]
    clips = [path for each in inputs for path in clip_paths(each)]
    refuse_input(curve.output, [*inputs, *clips, curve.gold])
    refuse_existing(curve.output, force, marker_file=CURVE_FILE)
    engine = PROPAGATORS.load(curve.engine, **curve.engine_options)
    work = curve.output.with_name(curve.output.name + WORK_SUFFIX)
    is_new = not work.exists()
    try:
        with locked_folder(work):
            laboratory, gold, settings = _prepare(curve, engine, work, force)
            is_new = False
            propagation = Propagation(laboratory.footage, engine, curve.engine, work / "propagated")
            with progress("curve", _count(curve), "detectors") as advance:
                rows = list(_measure(curve, laboratory, propagation, say, advance))
            gold.record_look(laboratory.digests)
            perfect = {row.seed: row for row in rows if row.arm == PERFECT}
            others = [row for row in rows if row.arm != PERFECT]
            result = CurveResult(others, perfect, len(gold.clips))
            with atomic_folder(curve.output, marker_file=CURVE_FILE, force=force) as draft:
                _write(result, settings, work, draft)
            shutil.rmtree(work)
    finally:
        if is_new and work.exists():
            shutil.rmtree(work)  # refused: nothing was computed
    return result


def _count(curve: LearningCurve) -> int:
    return curve.seeds * (1 + len(set(curve.touches)) * len(curve.arms))


def _prepare(
    curve: LearningCurve, engine: Propagator, work: Path, force: bool
) -> tuple[Laboratory, GoldSet, dict[str, Any]]:
    """Read and check all clips, and take what an earlier run has computed."""
    trainer = load_trainer(curve.trainer_options)
    scratch = work / "scratch"
    scratch.mkdir(exist_ok=True)
    footage = read_footage(curve.truth, curve.val, curve.every, scratch, curve.classes)
    check_dataset(footage.dataset, footage.content)
    check_leaks(footage.dataset)
    gold = open_checked_gold(curve.gold, footage.dataset)
    frames = [
        TrainingFrame(gold.dataset.images / s.image, only_boxes(s.item, footage.classes))
        for s in gold.dataset
    ]
    if not any(frame.item.objects for frame in frames):
        raise DatasetError(
            f"{gold.dataset.path}: no object of {', '.join(footage.classes)} is in it: there is "
            "nothing to measure on"
        )
    if any(arm.startswith("clicked") for arm in curve.arms):
        footage.sequences()  # raises where an object has no track
    settings = curve.settings(engine, trainer, gold)
    _take_results(curve, settings, work, force)
    laboratory = Laboratory(
        footage, frames, trainer, curve.epochs, curve.image_size, curve.threads, work
    )
    return laboratory, gold, settings


def _take_results(curve: LearningCurve, settings: dict[str, Any], work: Path, force: bool) -> None:
    """Keep what a stopped run with these settings has computed, or the results in the output.

    Raises:
        SettingsDiffer: a run with other settings was stopped there; lists them.
    """
    before = read_json(work / SETTINGS_FILE)
    if before is not None and not force:
        changes = [
            f"{key}: {before.get(key)} in the folder, {value} now"
            for key, value in settings.items()
            if before.get(key) != value
        ]
        check_same_settings(work, changes)
    if before != settings:
        for name in ("heads", *KEPT_FOLDERS):
            shutil.rmtree(work / name, ignore_errors=True)
    if read_json(curve.output / SETTINGS_FILE) == settings:
        _copy_kept(curve.output, work)
    write_json(work / SETTINGS_FILE, settings)


def _measure(
    curve: LearningCurve,
    laboratory: Laboratory,
    propagation: Propagation,
    say: Callable[[str], None],
    advance: Callable[..., object],
) -> Iterator[CurveRow]:
    """Yield the rows of all seeds, each begun by that of perfect labels."""
    for seed in range(curve.seeds):
        labeller = Labeller(laboratory, propagation, seed)
        perfect = labeller.perfect()
        cost = sum(labeller.person.draw(item) for item in perfect.values())
        runs = [
            (PERFECT, cost),
            *((arm, n) for n in sorted(set(curve.touches)) for arm in curve.arms),
        ]
        for arm, touches in runs:
            labels = Labels(0, perfect) if arm == PERFECT else ARMS[arm](labeller, touches)
            precision = laboratory.measure(labels.frames, seed)
            row = CurveRow(
                arm,
                touches,
                seed,
                touches - labels.left,
                len(labels.frames),
                sum(len(item.objects) for item in labels.frames.values()),
                precision,
            )
            say(
                f"seed {seed}, {arm}, {row.spent} of {touches} touches, {row.frames} frames: "
                f"AP50 {precision.ap50[0]:.3f}"
            )
            advance()
            yield row


def _write(result: CurveResult, settings: dict[str, Any], work: Path, folder: Path) -> None:
    (folder / CURVE_FILE).write_text(result.to_csv(), encoding="utf-8", newline="\n")
    (folder / "table.md").write_text(result.to_markdown(), encoding="utf-8", newline="\n")
    draw_curve(result, folder / "curve.png")
    write_json(folder / SETTINGS_FILE, settings)
    _copy_kept(work, folder)


def _copy_kept(source: Path, target: Path) -> None:
    for name in KEPT_FOLDERS:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, dirs_exist_ok=True)
