"""Run each detector of a comparison in its own process; measure its time and memory.

`python -m annotate.evaluation.runs SPEC.json` is how `annotate compare` starts each process.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotate.dataset import frame_sources
from annotate.dataset.frame_sources import FrameKey, FrameSource
from annotate.detectors.run import (
    DETECTORS,
    Detector,
    check_ready,
    detect_frames,
    detector_settings,
)
from annotate.errors import AnnotateError, OutputError, SettingsDiffer, UnknownName
from annotate.items import journal, records
from annotate.items.records import Frame, Object, Vocabulary
from annotate.plugins import parse_pairs
from annotate.vlm import budget
from annotate.weights.store import weights_path

if TYPE_CHECKING:
    import supervision as sv


ITEMS_FILE, MEASUREMENTS_FILE, LOG_FILE = (
    "items.jsonl",
    "measured.json",
    "log.txt",
)  # beside the spec
_WEIGHT_OPTIONS = ("model", "weights", "checkpoint", "local")


@dataclass(frozen=True)
class WorkerSpec:
    """What one process is asked to do. `options` are texts, as a person wrote them."""

    detector: str
    options: Mapping[str, str]
    vocabulary: Mapping[str, Any]  # name, classes, sha256
    footage: Mapping[str, Any]  # of footage.to_record
    batch: int

    def differences(self, other: WorkerSpec) -> list[str]:
        """What differs between two, in words; where footage lies does not count."""
        mine, theirs = self._comparable_settings(), other._comparable_settings()
        keys = [key for key in mine if mine[key] != theirs[key]]
        return [f"{key}: {mine[key]}, not {theirs[key]}" for key in keys]

    def _comparable_settings(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"detector": self.detector, "options": self.options}
        facts |= {"vocabulary": self.vocabulary["name"], "batch": self.batch}
        facts |= {"vocabulary's content": self.vocabulary["sha256"][:12]}
        return facts | {"clips": self.footage["clips"], **self.footage["choice"]}


@dataclass(frozen=True)
class Measurements:
    """What a run took. None is: not measured.

    `seconds` is the detector's own time for each frame, decoding left out, the median over batches;
    the first, which loads, is `first_seconds`. Memory is the process's most, in bytes.
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
    """A detector that notes how long each call takes; the first one loads."""

    inner: Detector
    seconds_per_frame: list[float] = field(default_factory=list)  # for each frame of each call
    call_seconds: list[float] = field(default_factory=list)
    frame_count: int = 0

    @property
    def vocabulary(self) -> Vocabulary:
        """The classes that the detector inside proposes."""
        return self.inner.vocabulary

    def propose(self, frames: list[Frame]) -> list[sv.Detections]:
        """What the detector inside finds."""
        start = time.perf_counter()
        found = self.inner.propose(frames)
        self.call_seconds.append(time.perf_counter() - start)
        self.seconds_per_frame.append(self.call_seconds[-1] / len(frames))
        self.frame_count += len(frames)
        return found


def run_detector(
    spec: WorkerSpec, items_path: Path, progress: Callable[[Any], None]
) -> Measurements:
    """Write the detector's items to `out`, going on where an equal run was stopped."""
    words = Vocabulary(**spec.vocabulary)
    options = DETECTORS.parse_options(spec.detector, spec.options)
    detector = DETECTORS.load(spec.detector, words, **options)
    seen = frame_sources.source_from_record(spec.footage)
    told = {"detector": spec.detector, **detector_settings(detector), **asdict(seen.selection)}
    check_ready(detector)
    header = records.Header("compare", told, vocabulary=words.header_entry(), videos=seen.videos())
    timed = TimedDetector(detector)
    with journal.append(items_path, header) as file:
        for done in range(file.count):
            progress(done)
        if not file.complete:
            frames = seen.frames(file.count)
            for item in detect_frames(timed, frames, spec.detector, batch_size=spec.batch):
                file.write(item)
                progress(item)
            file.finish()
    return _measurements(timed)


def _measurements(detector: TimedDetector) -> Measurements:
    bill = budget.total_usage(detector.inner)
    fresh = (
        detector.seconds_per_frame if bill is None or not bill.cached else []
    )  # a cache's speed says nothing
    warm = sorted(fresh[1:] or fresh)
    return Measurements(
        frames=detector.frame_count,
        seconds=warm[len(warm) // 2] if warm else None,
        first_seconds=detector.call_seconds[0] if fresh else None,
        memory=_peak_memory_bytes(),
        gpu_memory=_peak_gpu_memory_bytes(),
        weights=weights_size_bytes(detector_settings(detector.inner)),
        money_per_frame=_money_per_frame(bill, detector.frame_count),
    )


def _peak_memory_bytes() -> int | None:
    """The most memory that this process had, in bytes.

    Linux's VmHWM begins anew with a program; `ru_maxrss` may be that of whoever started it.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    with contextlib.suppress(ImportError):
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
    return None


def _peak_gpu_memory_bytes() -> int | None:
    torch = sys.modules.get("torch")  # what did not import it used no GPU by it
    if torch is None or not torch.cuda.is_available():
        return None
    return int(torch.cuda.max_memory_allocated())


def weights_size_bytes(settings: Mapping[str, Any]) -> int | None:
    """Bytes of the files that options named after them say; what is used twice counts once."""
    sizes = [file.stat().st_size for file in set(_weight_files(settings))]
    return sum(sizes) if sizes else None


def _weight_files(settings: Mapping[str, Any]) -> Iterator[Path]:
    """The files of weights that options say, as names in the manifest or paths."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _weight_files(value)
        elif value and isinstance(value, str) and any(w in key for w in _WEIGHT_OPTIONS):
            with contextlib.suppress(AnnotateError, OSError):
                path = weights_path(value).resolve()
                files = path.rglob("*") if path.is_dir() else [path]
                yield from (file for file in files if file.is_file())


def _money_per_frame(bill: budget.UsageTotal | None, frame_count: int) -> float | None:
    """Money for a frame, as if no cache had known an answer; None where nothing counts it."""
    if bill is None or not bill.cost or not frame_count:
        return None
    return bill.cost * (bill.questions + bill.cached) / bill.questions / frame_count


def main(spec_path: str) -> None:
    """Run the spec in a file; progress goes to stdout, a dot a frame, and all else to stderr.

    Items come beside the spec, and, when all is done, what it took.
    """
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever else talks, in C too
    path = Path(spec_path)
    spec = WorkerSpec(**json.loads(path.read_text(encoding="utf-8")))

    def dot(_: Any) -> None:
        print(".", end="", file=out, flush=True)

    try:
        measured = run_detector(spec, path.with_name(ITEMS_FILE), dot)
    except AnnotateError as error:
        sys.exit(str(error))
    draft = path.with_name(MEASUREMENTS_FILE + ".part")
    draft.write_text(json.dumps(asdict(measured)), encoding="utf-8")
    draft.replace(path.with_name(MEASUREMENTS_FILE))


_SPEC_FILE = "spec.json"
_NOT_MEASURED = Measurements(frames=0)


@dataclass(frozen=True)
class RunSpec:
    """One column asked for: a detector, its options as texts, the classes it is told of.

    `title` heads the column. `phrase` is the one alternative that is tried, "" for all of them.
    """

    title: str
    detector: str
    options: dict[str, str]
    vocabulary: Vocabulary
    phrase: str = ""

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes that it is told anything of; all, where it is told of none."""
        told = self.vocabulary.phrases(self.detector)
        return tuple(self.vocabulary.labels[n] for n in told) or self.vocabulary.labels

    @property
    def folder_name(self) -> str:
        """A name for its folder: readable, and no other column's."""
        readable = re.sub(r"[^\w.=-]+", "-", self.title).strip("-.")[:60]
        if readable == self.title:
            return readable
        return f"{readable}-{hashlib.sha256(self.title.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Run:
    """What came of an entry. `error` is "" where it reached its end.

    `found` are the objects on each frame that it looked at.
    """

    spec: RunSpec
    measurements: Measurements = _NOT_MEASURED
    objects: dict[FrameKey, tuple[Object, ...]] = field(default_factory=dict, repr=False)
    error: str = ""


def parse_run_spec(text: str, vocabulary: Vocabulary) -> RunSpec:
    """`NAME` or `NAME:KEY=VALUE,KEY=VALUE`, perhaps with `TITLE=` before it.

    A comma in a value stays where no `KEY=` comes after it; quotes round a value are taken off.

    >>> read_entry("colour:least=0.6,smallest=9", words).options  # doctest: +SKIP
    {'least': '0.6', 'smallest': '9'}

    Raises:
        UnknownName: no such detector or option.
        AnnotateError: an option without a value, or with one of another type.
    """
    name, _, rest = text.partition(":")
    title, _, name = name.rpartition("=")
    if name not in DETECTORS.names():
        raise UnknownName("detector", name, DETECTORS.names())
    options = parse_pairs(rest, f"KEY=VALUE after {name}:", separators=",")
    with contextlib.suppress(ImportError):  # which costs its own column, and no other
        DETECTORS.parse_options(name, options)
    return RunSpec(title or text, name, options, vocabulary)


def parse_run_specs(
    texts: Sequence[str], vocabulary: Vocabulary, *, each_phrase: bool = False
) -> list[RunSpec]:
    """An entry for each text, and, if asked, one for each alternative phrase of its classes.

    Raises:
        UnknownName, AnnotateError: see `read_entry`.
    """
    entries = [parse_run_spec(text, vocabulary) for text in texts]
    return [
        one for entry in entries for one in ([entry] if not each_phrase else split_by_phrase(entry))
    ]


def split_by_phrase(spec: RunSpec) -> list[RunSpec]:
    """The entry, and one for each alternative of each class that has several, tried alone."""
    entries = [spec]
    for label, told in spec.vocabulary.classes.items():
        phrases = told.get(spec.detector)
        if isinstance(phrases, list) and len(phrases) > 1:
            entries += [_single_phrase_spec(spec, label, str(phrase)) for phrase in phrases]
    return entries


def _single_phrase_spec(spec: RunSpec, label: str, phrase: str) -> RunSpec:
    """The entry, told only of one class, and only one thing; classes keep their ids."""
    words = spec.vocabulary
    classes = {each: {spec.detector: [phrase]} if each == label else {} for each in words.classes}
    digest = hashlib.sha256(json.dumps(classes, default=str).encode()).hexdigest()
    alone = Vocabulary(words.name, classes, digest)
    title = f"{spec.title} “{phrase}”"
    return replace(spec, title=title, vocabulary=alone, phrase=phrase)


def run_all(
    run_specs: Sequence[RunSpec],
    source: FrameSource,
    out: Path,
    *,
    batch_size: int = 8,
    force: bool = False,
    progress: Callable[[RunSpec], contextlib.AbstractContextManager[Callable[[], None]]],
) -> Iterator[Run]:
    """Each entry in a process of its own, one after the other; what is complete is not run again.

    Raises:
        SettingsDiffer: a column's folder holds a run under other settings.
        OutputError: two entries are one, or nothing can be written there.
    """
    places = {out / "columns" / entry.folder_name: entry for entry in run_specs}
    if len(places) < len(run_specs):
        raise OutputError("the same detector with the same options twice: give each -d once")
    specs = {place: _worker_spec(entry, source, batch_size) for place, entry in places.items()}
    for place, spec in specs.items():
        _prepare_folder(place, spec, force)
    for place, entry in places.items():
        error = ""
        if not ((place / MEASUREMENTS_FILE).exists() and (place / ITEMS_FILE).exists()):
            with progress(entry) as advance:
                error = _run_in_process(place, advance)
        yield _read_run(entry, place, error)


def _worker_spec(run_spec: RunSpec, source: FrameSource, batch_size: int) -> WorkerSpec:
    words = asdict(run_spec.vocabulary)
    return WorkerSpec(
        run_spec.detector,
        run_spec.options,
        words,
        frame_sources.source_to_record(source),
        batch_size,
    )


def _prepare_folder(run_folder: Path, spec: WorkerSpec, force: bool) -> None:
    """Make the column's folder, or check that what is there is of the same settings."""
    path = run_folder / _SPEC_FILE
    if path.exists() and not force:
        there = WorkerSpec(**json.loads(path.read_text(encoding="utf-8")))
        now = WorkerSpec(**json.loads(_spec_json(spec)))
        if differ := there.differences(now):
            cure = "give another -o, or --force to write over it"
            raise SettingsDiffer(f"{run_folder}: made with {'; '.join(differ)}: {cure}")
    try:
        run_folder.mkdir(parents=True, exist_ok=True)
        if force:
            for name in (ITEMS_FILE, MEASUREMENTS_FILE, LOG_FILE):
                (run_folder / name).unlink(missing_ok=True)
        path.write_text(_spec_json(spec), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{run_folder}: cannot write there: {error.strerror}") from None


def _spec_json(spec: WorkerSpec) -> str:
    return json.dumps(asdict(spec), default=str, ensure_ascii=False)


def _run_in_process(run_folder: Path, advance: Callable[[], None]) -> str:
    """Run a prepared column to its end; why it failed, or ""."""
    words = [sys.executable, "-m", "annotate.evaluation.runs", str(run_folder / _SPEC_FILE)]
    with (
        (run_folder / LOG_FILE).open("w", encoding="utf-8") as log,
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log) as child,
    ):
        assert child.stdout is not None
        try:
            while child.stdout.read(1):
                advance()
        except BaseException:
            child.terminate()
            raise
    return "" if child.returncode == 0 else _failure_reason(run_folder / LOG_FILE, child.returncode)


def _failure_reason(log_path: Path, exit_code: int) -> str:
    """The last that a process said, or how it ended."""
    said = log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    ended = f"killed by signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
    return said[-1].strip() if said and exit_code > 0 else f"{ended}, see {log_path}"


def _read_run(run_spec: RunSpec, run_folder: Path, error: str) -> Run:
    measured, found = _NOT_MEASURED, {}
    if (run_folder / MEASUREMENTS_FILE).exists():
        record: dict[str, Any] = json.loads(
            (run_folder / MEASUREMENTS_FILE).read_text(encoding="utf-8")
        )
        measured = Measurements(**record)
    if (run_folder / ITEMS_FILE).exists() and not error:
        found = {(i.video, i.frame): i.objects for i in journal.read(run_folder / ITEMS_FILE)}
    return Run(run_spec, measured, found, error)


if __name__ == "__main__":
    main(sys.argv[1])
