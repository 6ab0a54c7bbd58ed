"""The columns of a comparison: what each detector is told, and its run in a process of its own."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from annotate import detect, footage, journal
from annotate.errors import AnnotateError, OutputError, SettingsDiffer, UnknownName
from annotate.footage import Footage, Key
from annotate.records import Object, Vocabulary
from annotate.trial import ITEMS, LOG, MEASURED, Measured, Spec

_SPEC = "spec.json"
_UNMEASURED = Measured(frames=0)


@dataclass(frozen=True)
class Entry:
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
    def folder(self) -> str:
        """A name for its folder: readable, and no other column's."""
        readable = re.sub(r"[^\w.=-]+", "-", self.title).strip("-.")[:60]
        if readable == self.title:
            return readable
        return f"{readable}-{hashlib.sha256(self.title.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Column:
    """What came of an entry. `error` is "" where it reached its end.

    `found` are the objects on each frame that it looked at.
    """

    entry: Entry
    measured: Measured = _UNMEASURED
    found: dict[Key, tuple[Object, ...]] = field(default_factory=dict, repr=False)
    error: str = ""


def read_entry(text: str, vocabulary: Vocabulary) -> Entry:
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
    if name not in detect.names():
        raise UnknownName("detector", name, detect.names())
    options: dict[str, str] = {}
    for part in re.split(r",(?=\w+=)", rest) if rest else []:
        key, equals, value = part.partition("=")
        if not equals:
            raise AnnotateError(f"-d {text}: expected KEY=VALUE after {name}:, got {part!r}")
        quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
        options[key] = value[1:-1] if quoted else value
    with contextlib.suppress(ImportError):  # which costs its own column, and no other
        detect.parse_options(name, options)
    return Entry(title or text, name, options, vocabulary)


def read_entries(
    texts: Sequence[str], vocabulary: Vocabulary, *, each_phrase: bool = False
) -> list[Entry]:
    """An entry for each text, and, if asked, one for each alternative phrase of its classes.

    Raises:
        UnknownName, AnnotateError: see `read_entry`.
    """
    entries = [read_entry(text, vocabulary) for text in texts]
    return [one for entry in entries for one in ([entry] if not each_phrase else by_phrase(entry))]


def by_phrase(entry: Entry) -> list[Entry]:
    """The entry, and one for each alternative of each class that has several, tried alone."""
    entries = [entry]
    for label, told in entry.vocabulary.classes.items():
        phrases = told.get(entry.detector)
        if isinstance(phrases, list) and len(phrases) > 1:
            entries += [_alone(entry, label, str(phrase)) for phrase in phrases]
    return entries


def _alone(entry: Entry, label: str, phrase: str) -> Entry:
    """The entry, told only of one class, and only one thing; classes keep their ids."""
    words = entry.vocabulary
    classes = {each: {entry.detector: [phrase]} if each == label else {} for each in words.classes}
    digest = hashlib.sha256(json.dumps(classes, default=str).encode()).hexdigest()
    alone = Vocabulary(words.name, classes, digest)
    title = f"{entry.title} “{phrase}”"
    return replace(entry, title=title, vocabulary=alone, phrase=phrase)


def run(
    entries: Sequence[Entry],
    seen: Footage,
    out: Path,
    *,
    batch: int = 8,
    force: bool = False,
    progress: Callable[[Entry], contextlib.AbstractContextManager[Callable[[], None]]],
) -> Iterator[Column]:
    """Each entry in a process of its own, one after the other; what is complete is not run again.

    Raises:
        SettingsDiffer: a column's folder holds a run under other settings.
        OutputError: two entries are one, or nothing can be written there.
    """
    places = {out / "columns" / entry.folder: entry for entry in entries}
    if len(places) < len(entries):
        raise OutputError("the same detector with the same options twice: give each -d once")
    specs = {place: _spec(entry, seen, batch) for place, entry in places.items()}
    for place, spec in specs.items():
        _prepare(place, spec, force)
    for place, entry in places.items():
        error = ""
        if not ((place / MEASURED).exists() and (place / ITEMS).exists()):
            with progress(entry) as advance:
                error = _run(place, advance)
        yield _column(entry, place, error)


def _spec(entry: Entry, seen: Footage, batch: int) -> Spec:
    words = asdict(entry.vocabulary)
    return Spec(entry.detector, entry.options, words, footage.to_record(seen), batch)


def _prepare(place: Path, spec: Spec, force: bool) -> None:
    """Make the column's folder, or check that what is there is of the same settings."""
    path = place / _SPEC
    if path.exists() and not force:
        there = Spec(**json.loads(path.read_text(encoding="utf-8")))
        now = Spec(**json.loads(_json(spec)))
        if differ := there.differences(now):
            cure = "give another -o, or --force to write over it"
            raise SettingsDiffer(f"{place}: made with {'; '.join(differ)}: {cure}")
    try:
        place.mkdir(parents=True, exist_ok=True)
        if force:
            for name in (ITEMS, MEASURED, LOG):
                (place / name).unlink(missing_ok=True)
        path.write_text(_json(spec), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{place}: cannot write there: {error.strerror}") from None


def _json(spec: Spec) -> str:
    return json.dumps(asdict(spec), default=str, ensure_ascii=False)


def _run(place: Path, advance: Callable[[], None]) -> str:
    """Run a prepared column to its end; why it failed, or ""."""
    words = [sys.executable, "-m", "annotate.trial", str(place / _SPEC)]
    with (
        (place / LOG).open("w", encoding="utf-8") as log,
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log) as child,
    ):
        assert child.stdout is not None
        try:
            while child.stdout.read(1):
                advance()
        except BaseException:
            child.terminate()
            raise
    return "" if child.returncode == 0 else _reason(place / LOG, child.returncode)


def _reason(log: Path, code: int) -> str:
    """The last that a process said, or how it ended."""
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    ended = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    return said[-1].strip() if said and code > 0 else f"{ended}, see {log}"


def _column(entry: Entry, place: Path, error: str) -> Column:
    measured, found = _UNMEASURED, {}
    if (place / MEASURED).exists():
        record: dict[str, Any] = json.loads((place / MEASURED).read_text(encoding="utf-8"))
        measured = Measured(**record)
    if (place / ITEMS).exists() and not error:
        found = {(i.video, i.frame): i.objects for i in journal.read(place / ITEMS)}
    return Column(entry, measured, found, error)
