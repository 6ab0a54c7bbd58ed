"""Choose the next frames to label, from the items that a detector or a propagator gave.

Items are streamed. What stays in memory is about sixteen bytes for each frame and each signal of
it, and the features of the pool; all features that are computed are cached on disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from annotate import embeddings
from annotate.active_learning.contradictions import DEFAULT_THRESHOLD
from annotate.active_learning.detections import (
    ObjectsByFingerprint,
    detect_on_clip,
    load_model,
    read_objects,
)
from annotate.active_learning.frame_list import ListedFrame
from annotate.active_learning.selection import (
    Candidates,
    ChosenFrame,
    SelectionOptions,
    Spacing,
    choose_frames,
    list_pool,
)
from annotate.active_learning.signals import clip_signals, disagreements
from annotate.dataset import frame_sources
from annotate.dataset.folder import Dataset
from annotate.dataset.frame_sources import LocatedClip
from annotate.embeddings import ImageEmbedder, VectorCache, Vectors
from annotate.errors import ItemsError
from annotate.items import journal
from annotate.items.sequences import chunks
from annotate.progress import ProgressBar, no_progress
from annotate.video import reader

if TYPE_CHECKING:
    from annotate.detectors.run import Detector

_RANDOM, _NO_SIGNAL = "random", "unlike the others"
_EMBED_BATCH = 16  # frames


@dataclass(frozen=True)
class NextSources:
    """What the frames are chosen by: files of items, and what else is known of their clips.

    `others` are files of items of another detector of the same clips. `model` is the folder of a
    trained model, which is asked on the most promising frames only. `known` is the dataset that is
    labelled already. `videos` are the paths of clips that are not where their items say.
    """

    items: Sequence[Path | str]
    others: Sequence[Path | str] = ()
    model: Path | None = None
    known: Dataset | None = None
    videos: Mapping[str, Path] = field(default_factory=dict)


def next_frames(
    sources: NextSources,
    options: SelectionOptions = SelectionOptions(),  # noqa: B008  # frozen
    *,
    threshold: float | None = None,
    embedder: str = embeddings.DEFAULT_EMBEDDER,
    progress: ProgressBar = no_progress,
) -> list[ListedFrame]:
    """Choose the frames that are most worth labelling next, in the order in which to label them.

    `threshold` is the score at which the detector is unsure: by default that of the model, or 0.5.
    `embedder` is the network of the features. The same input gives the same list.

    Raises:
        ItemsError: no items, or none of a frame that is not labelled; a clip is not found.
        VideoError, DatasetError, WeightsError: see `annotate.errors`.
    """
    clips = frame_sources.locate_clips([journal.read(p) for p in sources.items], sources.videos)
    model = None if sources.model is None else load_model(sources.model)
    if threshold is None:
        threshold = DEFAULT_THRESHOLD if model is None else model[1]
    fingerprints = {str(clip.metadata["fingerprint"]) for clip in clips}
    others = read_objects(sources.others, fingerprints)
    labelled = _labelled_times(sources.known, clips)
    spacing = Spacing()
    for labelled_clip, seconds in labelled:
        spacing.take(labelled_clip, seconds)
    candidates = Candidates([clip.name for clip in clips])
    with progress("signals", None) as advance:
        for number, clip in enumerate(clips):
            for _ in add_clip(candidates, number, clip, threshold, others):
                advance()
    if not len(candidates):
        raise ItemsError(f"{sources.items[0]}: it has no frames to choose from")
    if model is not None:
        asked = list_pool(
            candidates, candidates.worths(), deepcopy(spacing), 2 * options.count, options.count
        )
        ask_model(candidates, clips, asked, model[0], threshold, progress)
    features = _Features(clips, embeddings.load(embedder), candidates, progress)
    known = None if sources.known is None else features.of_dataset(sources.known)
    worths = candidates.worths()
    chosen = choose_frames(candidates, worths, spacing, options, features.of_rows, known)
    if not chosen:
        raise ItemsError(
            "every frame of the items is within half a second of a labelled one; give other clips"
        )
    return _to_list(candidates, worths, chosen)


def _to_list(
    candidates: Candidates, worths: npt.NDArray[np.float64], chosen: Sequence[ChosenFrame]
) -> list[ListedFrame]:
    reasons = candidates.reasons(each.row for each in chosen)
    return [
        ListedFrame(
            candidates.clips[candidates.clip_index[each.row]],
            candidates.frame_index[each.row],
            candidates.seconds[each.row],
            float(worths[each.row]),
            _RANDOM if each.is_random else reasons[each.row] or _NO_SIGNAL,
            rank,
        )
        for rank, each in enumerate(chosen, start=1)
    ]


def add_clip(
    candidates: Candidates,
    number: int,
    clip: LocatedClip,
    threshold: float,
    others: ObjectsByFingerprint,
) -> Iterator[None]:
    """Add the frames and signals of a clip to the candidates; yield after each frame."""
    first_row = len(candidates)
    flagged = all(source.journal.header.stage == "propagate" for source in clip.sources)
    other_objects = others.get(str(clip.metadata["fingerprint"]))
    for item, signals in clip_signals(clip.items(), threshold, other_objects, flagged):
        candidates.add_frame(number, item.frame, float(item.seconds))
        candidates.class_counts.update(obj.label for obj in item.objects)
        for signal in signals:
            candidates.add_signal(signal, first_row)
        yield


def ask_model(
    candidates: Candidates,
    clips: Sequence[LocatedClip],
    rows: Sequence[int],
    detector: Detector,
    threshold: float,
    progress: ProgressBar = no_progress,
) -> None:
    """Run a detector on the frames of some rows, and add where it contradicts their items."""
    places: dict[int, dict[int, int]] = {}  # clip -> frame -> row
    for row in rows:
        frames = places.setdefault(candidates.clip_index[row], {})
        frames[candidates.frame_index[row]] = row
    with progress("model", len(rows)) as advance:
        for number, of_frame in sorted(places.items()):
            seen = detect_on_clip(clips[number], of_frame, detector, advance)
            for item in clips[number].items():
                if item.frame in seen:
                    row, found = of_frame[item.frame], seen[item.frame]
                    for signal in disagreements(row, item.objects, found, threshold):
                        candidates.add_signal(signal)


def _labelled_times(
    known: Dataset | None, clips: Sequence[LocatedClip]
) -> Iterator[tuple[int, float]]:
    """Yield the clip number and time of each labelled frame of the clips."""
    if known is None:
        return
    numbers = {str(clip.metadata["fingerprint"]): n for n, clip in enumerate(clips)}
    of_name = {
        name: numbers.get(str(entry.get("fingerprint"))) for name, entry in known.clips.items()
    }
    for sample in known:
        number = of_name.get(sample.item.video)
        if number is not None:
            yield number, float(sample.item.seconds)


class _Features:
    """Embeds the frames of candidates and of datasets, through the cache of each clip."""

    def __init__(
        self,
        clips: Sequence[LocatedClip],
        embedder: ImageEmbedder,
        candidates: Candidates,
        progress: ProgressBar,
    ) -> None:
        self._clips, self._embedder, self._candidates = clips, embedder, candidates
        self._progress = progress

    def of_rows(self, rows: Sequence[int]) -> Vectors:
        """Embed the frames of some rows of the candidates: (n, 2 * width)."""
        vectors = np.zeros((len(rows), 2 * self._embedder.width), np.float32)
        places: dict[int, dict[int, int]] = {}  # clip -> frame -> place among the rows
        for place, row in enumerate(rows):
            frames = places.setdefault(self._candidates.clip_index[row], {})
            frames[self._candidates.frame_index[row]] = place
        with self._progress("features", len(rows)) as advance:
            for number, of_frame in sorted(places.items()):
                clip = self._clips[number]
                cache = self._cache(clip.metadata["fingerprint"], max(of_frame) + 1)
                frames_in_order = reader.frames_at(clip.path, sorted(of_frame))
                for frame, vector in cache.stream(frames_in_order):
                    vectors[of_frame[frame.index]] = vector
                    advance()
        return vectors

    def of_dataset(self, dataset: Dataset) -> Vectors:
        """Embed all frames of a dataset: (n, 2 * width)."""
        counts: dict[str, int] = {}
        for sample in dataset:
            name, frame = sample.item.video, sample.item.frame
            counts[name] = max(counts.get(name, 0), frame + 1)
        caches = {
            name: self._cache(dataset.clips.get(name, {}).get("fingerprint"), count)
            for name, count in counts.items()
        }
        vectors: list[Vectors] = [np.zeros((0, 2 * self._embedder.width), np.float32)]
        frames = frame_sources.DatasetFrameSource(dataset.path).frames() if counts else iter(())
        with self._progress("labelled frames", None) as advance:
            for batch in chunks(frames, _EMBED_BATCH):
                for name, group in groupby(batch, key=lambda frame: frame.video):
                    vectors.append(caches[name].for_frames(list(group)))
                for _ in batch:
                    advance()
        return np.concatenate(vectors)

    def _cache(self, fingerprint: str | None, count: int) -> VectorCache:
        return VectorCache(self._embedder, fingerprint or "", count)
