"""Run each detector of a comparison in its own process; measure its time and memory.

The process is `python -m annotate.evaluation.runs SPEC.json`. It imports no more than detecting
needs, because its peak memory is what is measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotate.dataset import frame_sources
from annotate.dataset.frame_sources import FrameKey, FrameSource
from annotate.detectors.run import (
    DETECTORS,
    Detector,
    check_ready,
    collect_notes,
    detect_frames,
    detector_settings,
    header_settings,
)
from annotate.errors import AnnotateError, AnswerError, OutputError
from annotate.evaluation.run_spec import RunSpec
from annotate.files import atomic_file
from annotate.items import journal
from annotate.items.records import Frame, Header, Object, Vocabulary
from annotate.vlm import budget
from annotate.weights import identity
from annotate.weights.store import weights_path

if TYPE_CHECKING:
    import supervision as sv


# the files in the folder of a run
_SPEC_FILE, ITEMS_FILE, MEASUREMENTS_FILE = "spec.json", "items.jsonl", "measured.json"
_LOG_FILE = "log.txt"
RUNS_FOLDER = "columns"  # with a folder for each run


@dataclass(frozen=True)
class WorkerSpec:
    """The settings of one process. `options` are texts, as a person wrote them."""

    detector: str
    options: Mapping[str, str]
    vocabulary: Mapping[str, Any]  # name, classes, sha256
    footage: Mapping[str, Any]  # of `frame_sources.source_to_record`
    batch: int
    mask: str | None = None
    near: str | None = None
    margin: int = 40
    weights: Mapping[str, str] = field(default_factory=dict)  # of `identity.weights_hashes`

    def differences(self, other: WorkerSpec) -> list[str]:
        """Describe the settings that differ; the path of the footage does not count."""
        own, others = self._comparable_settings(), other._comparable_settings()
        keys = [key for key in {**own, **others} if own.get(key) != others.get(key)]
        unset = "not set"
        return [f"{key}: {own.get(key, unset)}, not {others.get(key, unset)}" for key in keys]

    def _comparable_settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {"detector": self.detector, "options": self.options}
        settings |= {"vocabulary": self.vocabulary["name"], "batch": self.batch}
        settings |= {"vocabulary's content": self.vocabulary["sha256"][:12]}
        settings |= {f"weights of {option}": sha[:12] for option, sha in self.weights.items()}
        settings |= {"mask": self.mask, "near": self.near, "margin": self.margin}
        return settings | {"clips": self.footage["clips"], **self.footage["choice"]}


@dataclass(frozen=True)
class Measurements:
    """Time, memory and cost of a run; None where not measured.

    `seconds` is the detector's time for a frame, without decoding: the median over the batches.
    `first_seconds` is the time of the first batch, which loads the model. `memory` and `gpu_memory`
    are the peaks of the process, `weights` the size of the model's files, all in bytes.
    """

    frames: int
    seconds: float | None = None
    first_seconds: float | None = None
    memory: int | None = None
    gpu_memory: int | None = None
    weights: int | None = None
    money_per_frame: float | None = None


@dataclass
class TimedDetector:
    """A detector that measures how long each call takes."""

    inner: Detector
    seconds_per_frame: list[float] = field(default_factory=list)  # one value a call
    call_seconds: list[float] = field(default_factory=list)
    frame_count: int = 0

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of the inner detector."""
        return self.inner.vocabulary

    def propose(self, frames: list[Frame]) -> list[sv.Detections]:
        """Propose boxes with the inner detector."""
        start = time.perf_counter()
        detections = self.inner.propose(frames)
        self.call_seconds.append(time.perf_counter() - start)
        self.seconds_per_frame.append(self.call_seconds[-1] / len(frames))
        self.frame_count += len(frames)
        return detections


def run_detector(
    spec: WorkerSpec, items_path: Path, progress: Callable[[Any], None]
) -> Measurements:
    """Write the items of a detector to `items_path`, and measure it; a stopped run is resumed."""
    vocabulary = Vocabulary(**spec.vocabulary)
    options = DETECTORS.parse_options(spec.detector, spec.options)
    detector = DETECTORS.load(spec.detector, vocabulary, **options)
    if spec.mask is not None or spec.near is not None:
        from annotate.detectors.colour.filter import filter_by_colour

        detector = filter_by_colour(detector, mask=spec.mask, near=spec.near, margin=spec.margin)
    source = frame_sources.source_from_record(spec.footage)
    check_ready(detector)
    settings = {"detector": spec.detector, **header_settings(detector)}
    settings |= asdict(source.selection)
    header = Header(
        "compare", settings, vocabulary=vocabulary.header_entry(), videos=source.videos()
    )
    timed = TimedDetector(detector)

    def write_rest(file: journal.Appender) -> None:
        for number in range(file.count):
            progress(number)
        frames = source.frames(file.count)
        for item in detect_frames(timed, frames, spec.detector, batch_size=spec.batch):
            _refuse_open_frames(detector)
            file.write(item)
            progress(item)
        _refuse_open_frames(detector)

    journal.resume(items_path, header, write_rest)
    return _measurements(timed)


def _refuse_open_frames(detector: Detector) -> None:
    """Refuse to compare a detector that has no usable answer for a frame."""
    for notes in collect_notes(detector):
        if notes.open_frames:
            raise AnswerError(next(iter(notes.lines())))


def _measurements(detector: TimedDetector) -> Measurements:
    usage = budget.total_usage(detector.inner)
    # the time of answers from a cache is not the detector's
    timings = detector.seconds_per_frame if usage is None or not usage.cached else []
    warm = sorted(timings[1:] or timings)
    return Measurements(
        frames=detector.frame_count,
        seconds=warm[len(warm) // 2] if warm else None,
        first_seconds=detector.call_seconds[0] if timings else None,
        memory=_peak_memory_bytes(),
        gpu_memory=_peak_gpu_memory_bytes(),
        weights=weights_size_bytes(detector_settings(detector.inner)),
        money_per_frame=_money_per_frame(usage, detector.frame_count),
    )


def _peak_memory_bytes() -> int | None:
    """Measure the peak memory of this process, in bytes.

    Linux's VmHWM starts at 0 with each program; `ru_maxrss` may be that of the parent process.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    with contextlib.suppress(ImportError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return None


def _peak_gpu_memory_bytes() -> int | None:
    torch = sys.modules.get("torch")  # a detector that did not import PyTorch used no GPU by it
    if torch is None or not torch.cuda.is_available():
        return None
    return int(torch.cuda.max_memory_allocated())


def weights_size_bytes(settings: Mapping[str, Any]) -> int | None:
    """Return the size of the weights that options name, in bytes; each file counts once."""
    sizes = [file.stat().st_size for file in set(_weight_files(settings))]
    return sum(sizes) if sizes else None


def _weight_files(settings: Mapping[str, Any]) -> Iterator[Path]:
    """Yield the files of the weights that options name, by name in the manifest or by path."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _weight_files(value)
        elif value and isinstance(value, str) and any(w in key for w in identity.WEIGHT_OPTIONS):
            with contextlib.suppress(AnnotateError, OSError):
                path = weights_path(value).resolve()
                files = path.rglob("*") if path.is_dir() else [path]
                yield from (file for file in files if file.is_file())


def _money_per_frame(usage: budget.UsageTotal | None, frame_count: int) -> float | None:
    """Compute the price of a frame without cached answers; None where no price is known."""
    if usage is None or not usage.cost or not frame_count:
        return None
    return usage.cost * (usage.questions + usage.cached) / usage.questions / frame_count


def main(spec_path: str) -> None:
    """Run the spec in a file; write its items, and at the end its measurements, beside the file.

    A dot a frame goes to stdout, everything else to stderr.
    """
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # redirects the prints of C libraries too
    path = Path(spec_path)
    spec = WorkerSpec(**json.loads(path.read_text(encoding="utf-8")))

    def print_dot(_: Any) -> None:
        print(".", end="", file=out, flush=True)

    try:
        measured = run_detector(spec, path.with_name(ITEMS_FILE), print_dot)
    except AnnotateError as error:
        sys.exit(str(error))
    with atomic_file(path.with_name(MEASUREMENTS_FILE)) as draft:
        draft.write_text(json.dumps(asdict(measured)), encoding="utf-8")


_NOT_MEASURED = Measurements(frames=0)


@dataclass(frozen=True)
class Run:
    """The result of one detector: its objects on each frame it looked at, and its measurements.

    `error` says why it failed, and is "" if it did not.
    """

    spec: RunSpec
    measurements: Measurements = _NOT_MEASURED
    objects: dict[FrameKey, tuple[Object, ...]] = field(default_factory=dict, repr=False)
    error: str = ""


def run_all(
    run_specs: Sequence[RunSpec],
    source: FrameSource,
    out: Path,
    *,
    batch_size: int = 8,
    force: bool = False,
    progress: Callable[[RunSpec], contextlib.AbstractContextManager[Callable[[], object]]],
) -> Iterator[Run]:
    """Run each detector in a process of its own, one after the other; skip complete runs.

    Raises:
        SettingsDiffer: the folder of a run holds a run with other settings.
        OutputError: two runs are the same, or nothing can be written there.
    """
    folders: dict[Path, RunSpec] = {}
    for spec in run_specs:
        folder = out / RUNS_FOLDER / spec.folder_name
        if folder in folders:
            raise OutputError(
                f"two detectors have the title {spec.title!r}: give one of them another, as in "
                f"TITLE={spec.detector}, or leave it out"
            )
        folders[folder] = spec
    for folder, spec in folders.items():
        _prepare_folder(folder, _worker_spec(spec, source, batch_size), force)
    for folder, spec in folders.items():
        error = ""
        if not ((folder / MEASUREMENTS_FILE).exists() and (folder / ITEMS_FILE).exists()):
            with progress(spec) as advance:
                error = _run_in_process(folder, advance)
        yield _read_run(spec, folder, error)


def _worker_spec(run_spec: RunSpec, source: FrameSource, batch_size: int) -> WorkerSpec:
    footage = frame_sources.source_to_record(source)
    vocabulary, weights = asdict(run_spec.vocabulary), _weights_hashes(run_spec)
    detector, options = run_spec.detector, run_spec.options
    seen = run_spec.mask, run_spec.near, run_spec.margin
    return WorkerSpec(detector, options, vocabulary, footage, batch_size, *seen, weights)


def _weights_hashes(run_spec: RunSpec) -> dict[str, str]:
    try:
        options = DETECTORS.parse_options(run_spec.detector, run_spec.options)
        detector = DETECTORS.load(run_spec.detector, run_spec.vocabulary, **options)
        return identity.weights_hashes(detector)
    except (AnnotateError, ImportError):
        return {}  # it fails in its own process, and alone


def _prepare_folder(run_folder: Path, spec: WorkerSpec, force: bool) -> None:
    """Make the folder of a run, or check that its earlier run had the same settings."""
    path = run_folder / _SPEC_FILE
    if path.exists() and not force:
        earlier = WorkerSpec(**json.loads(path.read_text(encoding="utf-8")))
        current = WorkerSpec(**json.loads(_spec_json(spec)))
        journal.check_same_settings(run_folder, earlier.differences(current))
    try:
        run_folder.mkdir(parents=True, exist_ok=True)
        if force:
            for name in (ITEMS_FILE, MEASUREMENTS_FILE, _LOG_FILE):
                (run_folder / name).unlink(missing_ok=True)
        path.write_text(_spec_json(spec), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{run_folder}: cannot write there: {error.strerror}") from None


def _spec_json(spec: WorkerSpec) -> str:
    return json.dumps(asdict(spec), default=str, ensure_ascii=False)


def _run_in_process(run_folder: Path, advance: Callable[[], object]) -> str:
    """Run a prepared folder to its end; return why it failed, or ""."""
    command = [sys.executable, "-m", "annotate.evaluation.runs", str(run_folder / _SPEC_FILE)]
    with (
        (run_folder / _LOG_FILE).open("w", encoding="utf-8") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as child,
    ):
        assert child.stdout is not None
        try:
            while child.stdout.read(1):
                advance()
        except BaseException:
            child.terminate()
            raise
    log_path = run_folder / _LOG_FILE
    return "" if child.returncode == 0 else _failure_reason(log_path, child.returncode)


def _failure_reason(log_path: Path, exit_code: int) -> str:
    """Return the last line that a process printed, or how it ended."""
    lines = log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    end = f"killed by signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
    return lines[-1].strip() if lines and exit_code > 0 else f"{end}, see {log_path}"


def _read_run(run_spec: RunSpec, run_folder: Path, error: str) -> Run:
    measurements = _NOT_MEASURED
    objects: dict[FrameKey, tuple[Object, ...]] = {}
    if (run_folder / MEASUREMENTS_FILE).exists():
        record = json.loads((run_folder / MEASUREMENTS_FILE).read_text(encoding="utf-8"))
        measurements = Measurements(**record)
    if (run_folder / ITEMS_FILE).exists() and not error:
        objects = {(i.video, i.frame): i.objects for i in journal.read(run_folder / ITEMS_FILE)}
    return Run(run_spec, measurements, objects, error)


if __name__ == "__main__":
    main(sys.argv[1])
