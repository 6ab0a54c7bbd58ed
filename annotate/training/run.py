"""Train a detector on a dataset, and write the folder of the model as a whole.

While the training runs, everything is in the folder OUTPUT.training. A training that was stopped or
killed leaves that folder, and the same training goes on from it; other settings are refused. At the
end the model's folder appears, and OUTPUT.training is removed.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from annotate import __version__
from annotate.dataset.folder import load_dataset
from annotate.device import core_count
from annotate.errors import AnnotateError, OutputError
from annotate.files import (
    OVERWRITE_HINT,
    atomic_folder,
    read_json,
    refuse_existing,
    refuse_input,
    sha256,
    write_json,
)
from annotate.items.journal import check_same_settings
from annotate.locking.locks import locked_folder
from annotate.plugins import RUNTIME_ONLY, option_fields
from annotate.training.checks import check_dataset, check_leaks, describe
from annotate.training.content import DatasetContent, read_content
from annotate.training.gold import evaluate_on_gold, open_checked_gold
from annotate.training.record import CURVE_FILE, Curve, Record
from annotate.training.trainer import (
    TRAINERS,
    EpochReport,
    TrainedWeights,
    Trainer,
    TrainingPlan,
)
from annotate.weights import lineage, store

WORK_SUFFIX = ".training"
PLAN_FILE = "plan.json"
_TRAINED_FILE = "trained.json"  # in the folder of a seed that was trained to its end


@dataclass(frozen=True)
class Training:
    """A training: a dataset, an output folder, a trainer by name with its options.

    `epochs` and `image_size` (longer side, pixels) are the trainer's own where they are None.
    `parent` is a model's folder, a file of weights, or a name in the manifest. `gold` is a dataset
    that the model is compared on with its parent, and that chooses nothing. With several `seeds`,
    the model of `seed` is kept, and those of the next ones say how far chance goes.
    """

    dataset: Path
    output: Path
    trainer: str = "light"
    options: Mapping[str, Any] = field(default_factory=dict)
    epochs: int | None = None
    image_size: int | None = None
    seed: int = 0
    parent: str | None = None
    freeze: str = "backbone"
    threads: int | None = None
    gold: Path | None = None
    seeds: int = 1

    def __post_init__(self) -> None:
        least_values = {"epochs": 1, "image_size": 64, "threads": 1, "seed": 0, "seeds": 1}
        for name, least in least_values.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise AnnotateError(f"`{name}` must be {least} or more, got {value}")
        if self.seeds > 1 and self.gold is None:
            raise AnnotateError("`seeds` above 1 need `gold`, on which their models are compared")
        if self.freeze not in ("", "backbone"):
            raise AnnotateError(f"`freeze` must be backbone or nothing, got {self.freeze!r}")

    def make_plan(self, trainer: Trainer, content: DatasetContent) -> TrainingPlan:
        """Make the plan for the trainer."""
        parent = None if self.parent is None else resolve_weights(self.parent)
        return TrainingPlan(
            self.dataset,
            content.sha256,
            content.classes,
            content.frames["train"],
            content.frames["val"],
            self.image_size or trainer.default_image_size,
            self.epochs or trainer.default_epochs,
            self.seed,
            parent,
            self.freeze,
            self.threads or core_count(),
        )

    def settings(self, trainer: Trainer, plan: TrainingPlan) -> dict[str, Any]:
        """Return everything that shapes the weights."""
        options = {
            name: getattr(trainer, name)
            for name, option in option_fields(type(trainer)).items()
            if not RUNTIME_ONLY.items() <= option.metadata.items()
        }
        return {
            "annotate": __version__,
            "trainer": self.trainer,
            **options,
            "dataset": plan.dataset_sha256,
            "epochs": plan.epochs,
            "image_size": plan.image_size,
            "seed": plan.seed,
            "freeze": plan.freeze,
            "parent": None if plan.parent is None else sha256(plan.parent),
        }


def resolve_weights(name: str) -> Path:
    """Find the file of weights of a model's folder, a path, or a name in the manifest.

    Raises:
        UnknownName, WeightsError: there are none.
    """
    path = store.weights_path(name)
    return lineage.read_model_folder(path).weights_path if lineage.is_model(path) else path


def train(
    training: Training,
    *,
    force: bool = False,
    say: Callable[[str], None] = lambda line: None,
    report: Callable[[EpochReport], None] = lambda each: None,
) -> lineage.TrainedModel:
    """Train a model and write its folder; a training that was stopped goes on.

    `say` gets lines about the dataset, `report` the end of each epoch.

    Raises:
        DatasetError: the dataset cannot be trained on, or overlaps with the gold set.
        SettingsDiffer: a training with other settings was stopped there; lists them.
        OutputError: the output exists, or cannot be written.
    """
    output = training.output
    refuse_input(output, [training.dataset, *filter(None, [training.gold])])
    refuse_existing(output, force, marker_file=lineage.LINEAGE_FILE)
    trainer = TRAINERS.load(training.trainer, **training.options)
    trainer.ready()
    dataset = load_dataset(training.dataset)
    content = read_content(dataset)
    check_dataset(dataset, content)
    for line in describe(content, check_leaks(dataset)):
        say(line)
    gold = None if training.gold is None else open_checked_gold(training.gold, dataset)
    plan = training.make_plan(trainer, content)
    settings = training.settings(trainer, plan)
    work = output.with_name(output.name + WORK_SUFFIX)
    with locked_folder(work):
        _prepare_work(work, settings, force)
        records = []
        for number in range(training.seeds):
            folder = work if number == 0 else work / f"seed-{plan.seed + number}"
            seed_plan = dataclasses.replace(plan, seed=plan.seed + number)
            weights, curve = _train_seed(folder, trainer, seed_plan, report)
            own = {**settings, "seed": seed_plan.seed}
            records.append(
                Record(training.trainer, dataset, content, seed_plan, own, weights, curve)
            )
            if weights.epochs[1] < plan.epochs:
                break  # stopped by Ctrl-C
        with atomic_folder(output, marker_file=lineage.LINEAGE_FILE, force=force) as draft:
            records[0].write(draft)
            if gold is not None:
                evaluate_on_gold(gold, records, draft, work / "others")
        shutil.rmtree(work)
    return lineage.read_model_folder(output)


def _train_seed(
    folder: Path, trainer: Trainer, plan: TrainingPlan, report: Callable[[EpochReport], None]
) -> tuple[TrainedWeights, Curve]:
    """Train with one seed in its folder, or take what an earlier run of the command has trained."""
    folder.mkdir(exist_ok=True)
    curve = Curve(folder / CURVE_FILE)
    trained = read_json(folder / _TRAINED_FILE)
    if trained is not None and Path(trained["path"]).is_file():
        values = {"path": Path(trained["path"]), "epochs": tuple(trained["epochs"])}
        return TrainedWeights(**{**trained, **values}), curve

    def keep(each: EpochReport) -> None:
        curve.add(each)
        report(each)

    weights = _train_in(folder, trainer, plan, keep)
    if weights.epochs[1] >= plan.epochs:
        values = {**dataclasses.asdict(weights), "path": str(weights.path)}
        write_json(folder / _TRAINED_FILE, values)
    return weights, curve


def _prepare_work(work: Path, settings: Mapping[str, Any], force: bool) -> None:
    """Begin a training in the folder, or check that it is the one that was stopped there."""
    path = work / PLAN_FILE
    before = read_json(path)
    if before is None and any(work.iterdir()) and not force:
        raise OutputError(f"{work}: no training that was stopped; remove it, {OVERWRITE_HINT}")
    if before is not None and not force:
        keys = {**before, **settings}
        check_same_settings(
            work,
            [
                f"{key}: {_short(before.get(key))} in the file, {_short(settings.get(key))} now"
                for key in keys
                if before.get(key) != settings.get(key)
            ],
        )
    if before is None or before != settings:
        for each in work.iterdir():
            shutil.rmtree(each) if each.is_dir() else each.unlink()
        write_json(path, settings)


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)


def _train_in(
    work: Path, trainer: Trainer, plan: TrainingPlan, report: Callable[[EpochReport], None]
) -> TrainedWeights:
    folder = work / "trainer"
    try:
        folder.mkdir(exist_ok=True)
        return trainer.train(plan, folder, report)
    except BaseException as error:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
            (work / PLAN_FILE).unlink(missing_ok=True)  # there is nothing to go on from
        if isinstance(error, OSError):
            raise OutputError(
                f"{error.filename or work}: cannot write there: {error.strerror or error}"
            ) from error
        raise
