"""Train a YOLO of Ultralytics in a process of its own that has no network.

The process gets a fresh copy of the pictures and labels, a configuration folder and a description
of the dataset that were made for it: nothing is written into the dataset, and no setting of the
user counts. After each epoch the weights are copied out atomically. What is trained from weights of
Ultralytics is under their licence, AGPL-3.0.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from annotate.dataset.yolo import box_label_lines
from annotate.detectors import ultralytics
from annotate.errors import AnnotateError, OutputError, needs
from annotate.files import read_json, write_json
from annotate.plugins import RUNTIME_ONLY
from annotate.training.trainer import EpochReport, TrainedWeights, TrainingFrame, TrainingPlan
from annotate.training.ultralytics_child import (
    BEST_FILE,
    LAST_FILE,
    RESULT_FILE,
    WEIGHTS_FILE,
    ChildSpec,
)

LICENCE = "AGPL-3.0"
FAMILIES_OF_WEIGHTS = ("yolo", "yolo-world", "yoloe")
_SPEC_FILE, _LOG_FILE, _CONFIG_FOLDER, _RUN_FOLDER = "spec.json", "log.txt", "config", "run"
_SECRETS = ("ULTRALYTICS_API_KEY", "WANDB_API_KEY", "COMET_API_KEY", "CLEARML_API_ACCESS_KEY")
_QUIET = {"YOLO_OFFLINE": "True", "WANDB_MODE": "disabled", "NO_ALBUMENTATIONS_UPDATE": "1"}


@dataclass(frozen=True)
class UltralyticsTrainer:
    """Train a YOLO11, YOLO26, YOLO-World or YOLOE of Ultralytics.

    `model` is a checkpoint to begin with where the training names no other: a name in the manifest,
    or a path. `batch_size` pictures are one step. `learning_rate` is that of AdamW; None chooses
    0.01 / (4 + number of classes). `device` is cpu, cuda or a number; None is the best there is.
    A training on the CPU that was killed starts again and gives the same tensors; with `resume` it
    goes on from its last whole epoch, and gives others. A YOLOE, and a network for masks or poses,
    is trained as the plain network for boxes that it was made from. A YOLO-World keeps the vectors
    of its classes, which the text `encoder` makes.
    """

    model: str = "yolo11n"
    batch_size: int = 8
    learning_rate: float | None = None
    device: str | None = None
    resume: bool = field(default=False, metadata=RUNTIME_ONLY)
    encoder: str = "clip-vit-b-32"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise AnnotateError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.learning_rate is not None and not 0 < self.learning_rate < 1:
            raise AnnotateError(f"learning_rate must be 0 to 1, got {self.learning_rate}")

    @property
    def default_epochs(self) -> int:
        """The number of epochs, where none is asked for."""
        return 20

    @property
    def default_image_size(self) -> int:
        """The longer side of a picture in pixels, where none is asked for."""
        return 640

    def ready(self) -> None:
        """Check for the packages.

        Raises:
            MissingPackage: one is not installed.
        """
        for name in ("ultralytics", "torchvision"):
            if importlib.util.find_spec(name) is None:  # to import them would take seconds
                needs(name, extra="ultralytics")

    def train(
        self, plan: TrainingPlan, folder: Path, report: Callable[[EpochReport], None]
    ) -> TrainedWeights:
        """Train in a child process, and write `weights.pt` into `folder`.

        A KeyboardInterrupt ends the training: the weights are the best of the whole epochs.

        Raises:
            UnknownName, MissingWeights, WeightsError: the checkpoint is not there.
            AnnotateError: the training failed; says why.
        """
        weights = plan.parent or ultralytics.find_weights(self.model, FAMILIES_OF_WEIGHTS)
        resumed = self.resume and (folder / LAST_FILE).is_file()
        interrupted, epochs = False, list[int]()

        def count(each: EpochReport) -> None:
            epochs.append(each.epoch)
            report(each)

        try:
            spec = self._prepare(plan, weights.resolve(), folder.resolve(), resumed)
            try:
                _run_child(folder, asdict(spec), count, plan)
            except KeyboardInterrupt:
                if not (folder / BEST_FILE).is_file():
                    raise
                interrupted = True
                _run_child(folder, asdict(spec) | {"finish_only": True}, count, plan)
        except OSError as error:
            raise OutputError(f"{folder}: cannot write there: {error.strerror or error}") from None
        result = read_json(folder / RESULT_FILE)
        if result is None:
            raise AnnotateError(f"{folder}: the training ended without a result")
        _clean(folder)
        return TrainedWeights(
            folder / WEIGHTS_FILE,
            "yolo",
            LICENCE,
            result["tensor_sha256"],
            result["device"] == "cpu" and not (resumed or interrupted),
            result["settings"],
            (epochs[0] if epochs else 1, int(result["last_epoch"])),
        )

    def _prepare(self, plan: TrainingPlan, weights: Path, folder: Path, resumed: bool) -> ChildSpec:
        """Write the export and the description of the dataset; remove what an earlier run left."""
        if not resumed:
            _clean(folder)
            (folder / WEIGHTS_FILE).unlink(missing_ok=True)
        export = folder / f"export-{plan.dataset_sha256[:16]}"
        if export.exists():
            shutil.rmtree(export)  # its label cache may be of another run
        description = export_plan(plan, export)
        rate = self.learning_rate or 0.01 / (4 + len(plan.classes))
        return ChildSpec(
            data=str(description),
            weights=str(weights),
            folder=str(folder),
            run_folder=str(folder / _RUN_FOLDER),
            classes=plan.classes,
            epochs=plan.epochs,
            image_size=-(-plan.image_size // 32) * 32,
            batch_size=self.batch_size,
            learning_rate=rate,
            seed=plan.seed,
            freeze=plan.freeze,
            threads=plan.threads,
            device=self.device,
            resume=resumed,
            encoder=self.encoder,
        )


def export_plan(plan: TrainingPlan, export: Path) -> Path:
    """Copy the pictures, write their labels, and describe them with absolute paths."""
    class_ids = {label: number for number, label in enumerate(plan.classes)}
    splits: Mapping[str, Any] = {"train": plan.train, "val": plan.val}
    for split, frames in splits.items():
        images, labels = export / "images" / split, export / "labels" / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for frame in frames:
            _export_frame(frame, images, labels, class_ids)
    table = {
        "path": str(export),
        **{split: f"images/{split}" for split in splits},
        "names": dict(enumerate(plan.classes)),
    }
    description = export / "data.yaml"
    text = needs("yaml").safe_dump(table, sort_keys=False, allow_unicode=True)
    description.write_text(text, encoding="utf-8", newline="\n")
    return description


def _export_frame(
    frame: TrainingFrame, images: Path, labels: Path, class_ids: Mapping[str, int]
) -> None:
    """Write a picture and its labels; a copy, because the package rewrites damaged JPEG files."""
    shutil.copyfile(frame.image, images / frame.image.name)
    text = box_label_lines(frame.item, class_ids)
    (labels / f"{frame.image.stem}.txt").write_text(text, encoding="ascii", newline="\n")


def _clean(folder: Path) -> None:
    """Remove what a run leaves in its folder, but the weights."""
    for path in folder.glob("export-*"):
        shutil.rmtree(path)
    for name in (_CONFIG_FOLDER, _RUN_FOLDER):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in (_SPEC_FILE, _LOG_FILE, RESULT_FILE, BEST_FILE, LAST_FILE):
        (folder / name).unlink(missing_ok=True)


def _run_child(
    folder: Path,
    spec: Mapping[str, Any],
    report: Callable[[EpochReport], None],
    plan: TrainingPlan,
) -> None:
    """Run the child process to its end, and report each epoch that it reports.

    It is in a session of its own: Ctrl-C in a terminal reaches only this process, which ends it.

    Raises:
        AnnotateError: it failed; says why.
    """
    write_json(folder / _SPEC_FILE, spec)
    command = [sys.executable, "-m", "annotate.training.ultralytics_child"]
    with (
        (folder / _LOG_FILE).open("w", encoding="utf-8") as log,
        subprocess.Popen(
            [*command, str(folder / _SPEC_FILE)],
            stdout=subprocess.PIPE,
            stderr=log,
            env=_child_environment(folder, plan.threads),
            start_new_session=True,
            text=True,
        ) as child,
    ):
        assert child.stdout is not None
        try:
            for line in child.stdout:
                record = json.loads(line)
                report(EpochReport(record["epoch"], plan.epochs, record["loss"], record["ap50"]))
        except BaseException:
            child.kill()
            child.wait()
            raise
    if child.returncode:
        raise AnnotateError(_failure(folder / _LOG_FILE, child.returncode))


def _child_environment(folder: Path, threads: int) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name not in _SECRETS}
    config = {"YOLO_CONFIG_DIR": str(folder / _CONFIG_FOLDER), "OMP_NUM_THREADS": str(threads)}
    return environment | _QUIET | config


def _failure(log_path: Path, exit_code: int) -> str:
    """Say how the child ended, with the last line that it wrote."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    if exit_code < 0:
        return f"the training was killed by signal {-exit_code}; is there enough memory?"
    return f"the training failed: {lines[-1].strip() if lines else f'exit code {exit_code}'}"
