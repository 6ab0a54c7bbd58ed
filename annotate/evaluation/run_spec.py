"""Parse the detectors of a comparison: a name, its options and a vocabulary each."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from annotate.detectors.run import DETECTORS
from annotate.items.records import Vocabulary


@dataclass(frozen=True)
class RunSpec:
    """One detector of a comparison: its name, its options as text, and its vocabulary.

    `title` is its heading in tables. `phrase` is the only phrase that is tried; "" for all. `mask`,
    `near` and `margin` limit what the detector sees: see `filter_by_colour`.
    """

    title: str
    detector: str
    options: dict[str, str]
    vocabulary: Vocabulary
    phrase: str = ""
    mask: str | None = None
    near: str | None = None
    margin: int = 40

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes that have a prompt for the detector; all classes if none has."""
        prompts = self.vocabulary.phrases(self.detector)
        return tuple(self.vocabulary.labels[n] for n in prompts) or self.vocabulary.labels

    @property
    def folder_name(self) -> str:
        """A readable folder name, unique for each title."""
        readable = re.sub(r"[^\w.=-]+", "-", self.title).strip("-.")[:60]
        if readable == self.title:
            return readable
        return f"{readable}-{hashlib.sha256(self.title.encode()).hexdigest()[:8]}"


def parse_run_spec(text: str, vocabulary: Vocabulary) -> RunSpec:
    """Parse a detector as `Family.split_spec` does, with `TITLE=` before it if wanted.

    Examples:
        >>> words = Vocabulary("mugs.v1", {"mug": {}}, "")
        >>> parse_run_spec("strict=colour:min_score=0.6,min_area=9", words).options
        {'min_score': '0.6', 'min_area': '9'}

    Raises:
        UnknownName: no such detector or option.
        AnnotateError: an option without a value, or with a value of the wrong type.
    """
    title = text.partition(":")[0].rpartition("=")[0]
    name, options = DETECTORS.split_spec(text.removeprefix(f"{title}="))
    with contextlib.suppress(ImportError):  # a missing package fails this run alone, later
        DETECTORS.parse_options(name, options)
    return RunSpec(title or text, name, options, vocabulary)


def parse_run_specs(
    texts: Sequence[str],
    vocabulary: Vocabulary,
    *,
    each_phrase: bool = False,
    mask: str | None = None,
    near: str | None = None,
    margin: int = 40,
) -> list[RunSpec]:
    """Parse several detectors; with `each_phrase`, add a run for each alternative phrase.

    With `mask` and with `near`, add a run of each that sees only pixels in the colour of that
    class, or near objects of it: see `filter_by_colour`.

    Raises:
        UnknownName, AnnotateError: see `parse_run_spec`.
        PromptError: the class of `mask` or `near` has no colour.
    """
    if mask is not None or near is not None:
        from annotate.detectors.colour.filter import check_filter

        check_filter(vocabulary, mask, near)
    specs = [parse_run_spec(text, vocabulary) for text in texts]
    split = [each for spec in specs for each in (split_by_phrase(spec) if each_phrase else [spec])]
    return [each for spec in split for each in _with_filters(spec, mask, near, margin)]


def _with_filters(
    spec: RunSpec, mask: str | None, near: str | None, margin: int
) -> Iterator[RunSpec]:
    yield spec
    if mask is not None:
        yield replace(spec, title=f"{spec.title}, masked by {mask}", mask=mask)
    if near is not None:
        yield replace(spec, title=f"{spec.title}, near {near}", near=near, margin=margin)


def split_by_phrase(spec: RunSpec) -> list[RunSpec]:
    """Return the run, and a run for each phrase of each class that has several."""
    specs = [spec]
    for label, prompts in spec.vocabulary.classes.items():
        phrases = prompts.get(spec.detector)
        if isinstance(phrases, list) and len(phrases) > 1:
            specs += [_single_phrase_spec(spec, label, str(phrase)) for phrase in phrases]
    return specs


def _single_phrase_spec(spec: RunSpec, label: str, phrase: str) -> RunSpec:
    """Make the run with one phrase of one class; the other classes stay, without prompts."""
    full = spec.vocabulary
    classes = {each: {spec.detector: [phrase]} if each == label else {} for each in full.classes}
    digest = hashlib.sha256(json.dumps(classes, default=str).encode()).hexdigest()
    one_phrase = Vocabulary(full.name, classes, digest)
    title = f"{spec.title} “{phrase}”"
    return replace(spec, title=title, vocabulary=one_phrase, phrase=phrase)
