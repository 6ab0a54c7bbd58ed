"""One detector, alone in a process, on all the frames: its items, and what it took.

`python -m annotate.trial SPEC.json` is how `annotate compare` runs each of its columns.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotate import detect, footage, journal, spending, weights
from annotate.errors import AnnotateError
from annotate.records import Frame, Vocabulary

if TYPE_CHECKING:
    import supervision as sv

ITEMS, MEASURED, LOG = "items.jsonl", "measured.json", "log.txt"  # beside the spec
_NAMES_OF_WEIGHTS = ("model", "weights", "checkpoint", "local")


@dataclass(frozen=True)
class Spec:
    """What one process is asked to do. `options` are texts, as a person wrote them."""

    detector: str
    options: Mapping[str, str]
    vocabulary: Mapping[str, Any]  # name, classes, sha256
    footage: Mapping[str, Any]  # of footage.to_record
    batch: int

    def differences(self, other: Spec) -> list[str]:
        """What differs between two, in words; where footage lies does not count."""
        mine, theirs = self._facts(), other._facts()
        keys = [key for key in mine if mine[key] != theirs[key]]
        return [f"{key}: {mine[key]}, not {theirs[key]}" for key in keys]

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"detector": self.detector, "options": self.options}
        facts |= {"vocabulary": self.vocabulary["name"], "batch": self.batch}
        facts |= {"vocabulary's content": self.vocabulary["sha256"][:12]}
        return facts | {"clips": self.footage["clips"], **self.footage["choice"]}


@dataclass(frozen=True)
class Measured:
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
class Stopwatch:
    """A detector that notes how long each call takes; the first one loads."""

    inner: detect.Detector
    seconds: list[float] = field(default_factory=list)  # for each frame of each call
    calls: list[float] = field(default_factory=list)
    frames: int = 0

    @property
    def vocabulary(self) -> Vocabulary:
        """The classes that the detector inside proposes."""
        return self.inner.vocabulary

    def propose(self, frames: list[Frame]) -> list[sv.Detections]:
        """What the detector inside finds."""
        start = time.perf_counter()
        found = self.inner.propose(frames)
        self.calls.append(time.perf_counter() - start)
        self.seconds.append(self.calls[-1] / len(frames))
        self.frames += len(frames)
        return found


def run(spec: Spec, out: Path, progress: Callable[[Any], None]) -> Measured:
    """Write the detector's items to `out`, going on where an equal run was stopped."""
    words = Vocabulary(**spec.vocabulary)
    options = detect.parse_options(spec.detector, spec.options)
    detector = detect.load(spec.detector, words, **options)
    seen = footage.from_record(spec.footage)
    told = {"detector": spec.detector, **detect.settings(detector), **asdict(seen.choice)}
    detect.ready(detector)
    header = journal.Header("compare", told, vocabulary=words.stamp(), videos=seen.videos())
    timed = Stopwatch(detector)
    with journal.append(out, header) as file:
        for done in range(file.count):
            progress(done)
        if not file.complete:
            frames = seen.frames(file.count)
            for item in detect.run(timed, frames, spec.detector, batch=spec.batch):
                file.write(item)
                progress(item)
            file.finish()
    return _measured(timed)


def _measured(timed: Stopwatch) -> Measured:
    bill = spending.bill(timed.inner)
    fresh = timed.seconds if bill is None or not bill.known else []  # a cache's speed says nothing
    warm = sorted(fresh[1:] or fresh)
    return Measured(
        frames=timed.frames,
        seconds=warm[len(warm) // 2] if warm else None,
        first_seconds=timed.calls[0] if fresh else None,
        memory=_memory(),
        gpu_memory=_gpu_memory(),
        weights=size_of_weights(detect.settings(timed.inner)),
        money_per_frame=_money(bill, timed.frames),
    )


def _memory() -> int | None:
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


def _gpu_memory() -> int | None:
    torch = sys.modules.get("torch")  # what did not import it used no GPU by it
    if torch is None or not torch.cuda.is_available():
        return None
    return int(torch.cuda.max_memory_allocated())


def size_of_weights(settings: Mapping[str, Any]) -> int | None:
    """Bytes of the files that options named after them say; what is used twice counts once."""
    sizes = [file.stat().st_size for file in set(_files(settings))]
    return sum(sizes) if sizes else None


def _files(settings: Mapping[str, Any]) -> Iterator[Path]:
    """The files of weights that options say, as names in the manifest or paths."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _files(value)
        elif value and isinstance(value, str) and any(w in key for w in _NAMES_OF_WEIGHTS):
            with contextlib.suppress(AnnotateError, OSError):
                path = weights.where(value).resolve()
                files = path.rglob("*") if path.is_dir() else [path]
                yield from (file for file in files if file.is_file())


def _money(bill: spending.Bill | None, frames: int) -> float | None:
    """Money for a frame, as if no cache had known an answer; None where nothing counts it."""
    if bill is None or not bill.money or not frames:
        return None
    return bill.money * (bill.asked + bill.known) / bill.asked / frames


def main(spec_path: str) -> None:
    """Run the spec in a file; progress goes to stdout, a dot a frame, and all else to stderr.

    Items come beside the spec, and, when all is done, what it took.
    """
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever else talks, in C too
    path = Path(spec_path)
    spec = Spec(**json.loads(path.read_text(encoding="utf-8")))

    def dot(_: Any) -> None:
        print(".", end="", file=out, flush=True)

    try:
        measured = run(spec, path.with_name(ITEMS), dot)
    except AnnotateError as error:
        sys.exit(str(error))
    draft = path.with_name(MEASURED + ".part")
    draft.write_text(json.dumps(asdict(measured)), encoding="utf-8")
    draft.replace(path.with_name(MEASURED))


if __name__ == "__main__":
    main(sys.argv[1])
