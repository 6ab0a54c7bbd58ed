"""Find the stored clip and frame that a picture or another clip shows.

    library.add([clip], db)
    for path, result in library.find([picture], db): ...

A query is compared with the hashes of all stored frames; a million comparisons take a few
milliseconds. The nearest as a whole picture and as a crop are verified by template matching; the
best match is accepted below a measured distance: see `UNKNOWN_DISTANCE`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt

from annotate.errors import UnknownName
from annotate.items.records import Frame, Picture
from annotate.sampling import phash
from annotate.sampling.thumbnail import Thumbnail
from annotate.scenes import fingerprint
from annotate.scenes.store import FrameChunk, SceneStore, StoredClip, StoredFrame
from annotate.video import reader
from annotate.video.reader import FrameSelection

# From this distance on a picture is unknown. Of 950 foreign pictures of the same game, altered as
# those of the show were (compressed, shrunk, cropped, of other tones, written on), none lay nearer
# than 0.55; of the show's own, 99 in 100 lay nearer than 0.3: `benchmarks/scenes.py`.
UNKNOWN_DISTANCE = 0.4
_WHOLE_CANDIDATES, _CROP_CANDIDATES = 60, 140  # frames that are fitted
_SAME_PLACE_SECONDS = Fraction(2)  # nearer ones are the same place
_NEIGHBOUR_FRAMES = 45  # frames before and after the best that are fitted too
_AGREEMENT_TOLERANCE = 0.05  # of agreement: so near to the best, the better fit is right
_FIT_TOLERANCE = 0.005  # of fits: by less nobody can tell
_COLOUR_TOLERANCE = 2.0  # of layouts' distances: by less nobody can tell
_EPSILON = 1e-6
_MAX_VERIFIED = 24  # of the frames that are fitted: those whose fit is looked at block by block
_MAX_BORDER_CONTRAST = 8  # of a border's pixels, from its darkest to its brightest

RowIndices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class SceneMatch:
    """A frame of a clip that is known; `distance` 0 is the same picture, 1 has nothing of it."""

    clip: StoredClip
    frame: int
    seconds: Fraction
    distance: float


@dataclass(frozen=True)
class SceneResult:
    """The frame that a picture shows, or None; the nearest; the nearest that is elsewhere."""

    match: SceneMatch | None
    nearest: SceneMatch | None
    runner_up: SceneMatch | None


class SceneIndex:
    """All scenes of a file, ready to be asked."""

    def __init__(self, store: SceneStore) -> None:
        clips = {clip.id: clip for clip in store.clips()}
        self._shapes_and_layouts = lru_cache(maxsize=512)(store.shapes_and_layouts)
        by_aspect = sorted(store.chunks(), key=lambda c: (_aspect_ratio(clips[c.clip_id]), c.id))
        self._groups = [
            _AspectGroup(aspect, list(chunks), clips)
            for aspect, chunks in groupby(by_aspect, key=lambda c: _aspect_ratio(clips[c.clip_id]))
        ]

    def find(self, picture: Picture) -> SceneResult:
        """What a picture shows, (H, W, 3) RGB; or, if unknown, what it does without borders."""
        answer = self._find_uncropped(picture)
        if answer.match is None and (cut := crop_borders(picture)).shape != picture.shape:
            within = self._find_uncropped(cut)
            return within if within.match is not None else answer
        return answer

    def _find_uncropped(self, picture: Picture) -> SceneResult:
        glance = Thumbnail(fingerprint.single_frame(picture))
        matches = [each for group in self._groups for each in self._matches(group, glance)]
        matches.sort(key=lambda each: each.distance)
        if not matches:
            return SceneResult(None, None, None)
        best = matches[0]
        elsewhere = (each for each in matches if not _is_same_place(each, best))
        known = best if best.distance < UNKNOWN_DISTANCE else None
        return SceneResult(known, best, next(elsewhere, None))

    def _matches(self, group: _AspectGroup, thumbnail: Thumbnail) -> list[SceneMatch]:
        """The frames that fit best, with their distances."""
        fitted = fingerprint.crop_templates(thumbnail.small_grey, group.aspect)
        rows = group.candidates(thumbnail.small_grey)
        shapes = self._shapes(group, rows)
        fits = fingerprint.fit_templates(shapes, fitted)
        about = np.setdiff1d(group.neighbours(int(rows[fits.correlation.argmax()])), rows)
        if len(about):
            more = self._shapes(group, about)
            fits = fits.concatenated(fingerprint.fit_templates(more, fitted))
            rows, shapes = np.concatenate([rows, about]), np.concatenate([shapes, more])
        best = np.argsort(-fits.correlation, kind="stable")[:_MAX_VERIFIED]
        agreed = np.array(
            [
                fingerprint.block_agreement(
                    shapes[n], fitted[fits.template_index[n]], fits.y[n], fits.x[n]
                )
                for n in best
            ]
        )
        near = agreed >= agreed.max() - _AGREEMENT_TOLERANCE
        ties = np.flatnonzero(
            near & (fits.correlation[best] >= fits.correlation[best][near].max() - _FIT_TOLERANCE)
        )
        if len(fitted[fits.template_index[best[ties[0]]]]) == fingerprint.SHAPE_WH[1]:
            ties = ties[self._has_matching_colours(rows[best[ties]], group, thumbnail)]
        agreed[ties[_middle_tie(rows[best[ties]], group)]] = agreed.max() + _EPSILON
        return [
            group.match(int(row), 1 - min(float(found), 1.0))
            for row, found in zip(rows[best], agreed, strict=True)
        ]

    def _shapes(self, group: _AspectGroup, rows: RowIndices) -> fingerprint.Shapes:
        return np.array(
            [self._shapes_and_layouts(c)[0][at] for c, at in map(group.chunk_position, rows)]
        )

    def _has_matching_colours(
        self, rows: RowIndices, group: _AspectGroup, thumbnail: Thumbnail
    ) -> npt.NDArray[np.bool_]:
        """Which of several rows have their colours where a whole picture has them."""
        layouts = np.array(
            [self._shapes_and_layouts(c)[1][at] for c, at in map(group.chunk_position, rows)]
        )
        apart = fingerprint.layout_distances(
            fingerprint.colour_layout(thumbnail.small_rgb), layouts
        )
        return np.asarray(apart <= apart.min() + _COLOUR_TOLERANCE)


def _middle_tie(rows: RowIndices, group: _AspectGroup) -> int:
    """Of rows that fit as well as the first: that in the middle of those in its place.

    A picture that stands for a while is best answered by the middle of it.
    """
    first = group.match(int(rows[0]), 0)
    same = [n for n, row in enumerate(rows) if _is_same_place(group.match(int(row), 0), first)]
    return sorted(same, key=lambda n: int(rows[n]))[len(same) // 2]


class _AspectGroup:
    """The frames of all clips of one aspect, row by row."""

    def __init__(
        self, aspect: float, chunks: list[FrameChunk], clips: dict[int, StoredClip]
    ) -> None:
        self.aspect, self._chunks, self._clips = aspect, chunks, clips
        sizes = [len(chunk.frames) for chunk in chunks]
        self._starts = np.cumsum([0, *sizes])
        self._clip_ids = np.repeat([chunk.clip_id for chunk in chunks], sizes)
        self._hashes = np.ascontiguousarray(np.concatenate([c.hashes for c in chunks]).T)

    def candidates(self, grey: Picture) -> RowIndices:
        """The frames nearest to a picture as a whole, and those it is nearest to as a crop."""
        parts = fingerprint.crop_parts(round(grey.shape[1] / grey.shape[0], 2), self.aspect)
        whole, *found = fingerprint.hash_parts(grey, [fingerprint.WHOLE_PICTURE, *parts])
        apart = phash.hamming_distances(int(whole), self._hashes[0])
        as_crop = apart.copy()
        for part, each in zip(parts, found, strict=True):
            near = phash.hamming_distances(int(each), self._hashes[part.part_index])
            np.minimum(as_crop, near, out=as_crop)
        return np.union1d(
            nearest_rows(apart, _WHOLE_CANDIDATES), nearest_rows(as_crop, _CROP_CANDIDATES)
        )

    def neighbours(self, row: int) -> RowIndices:
        """The rows of the same clip before and after."""
        rows = np.arange(
            max(row - _NEIGHBOUR_FRAMES, 0), min(row + _NEIGHBOUR_FRAMES + 1, len(self._clip_ids))
        )
        return np.asarray(rows[self._clip_ids[rows] == self._clip_ids[row]])

    def chunk_position(self, row: int) -> tuple[int, int]:
        """The chunk's id, and the place in it."""
        number, at = self._locate(row)
        return self._chunks[number].id, at

    def match(self, row: int, distance: float) -> SceneMatch:
        """The frame of a row."""
        number, at = self._locate(row)
        chunk = self._chunks[number]
        seconds = Fraction(chunk.seconds[at])
        return SceneMatch(self._clips[chunk.clip_id], int(chunk.frames[at]), seconds, distance)

    def _locate(self, row: int) -> tuple[int, int]:
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        return number, int(row - self._starts[number])


def nearest_rows(distances: npt.NDArray[np.uint8], count: int) -> RowIndices:
    """The rows of the `count` smallest distances, those of the last evenly spread; ascending."""
    if len(distances) <= count:
        return np.arange(len(distances))
    upto = np.bincount(distances, minlength=phash.BITS + 1).cumsum()
    last = int(np.searchsorted(upto, count))
    rows, equal = np.flatnonzero(distances < last), np.flatnonzero(distances == last)
    spread = np.linspace(0, len(equal) - 1, count - len(rows)).round().astype(int)
    return np.union1d(rows, equal[spread])


def crop_borders(picture: Picture) -> Picture:
    """The picture without the bars of one colour that a player puts round it."""
    lively = np.ptp(picture.astype(np.int16).max(axis=2), axis=1) > _MAX_BORDER_CONTRAST
    across = np.ptp(picture.astype(np.int16).max(axis=2), axis=0) > _MAX_BORDER_CONTRAST
    if not lively.any() or not across.any():
        return picture
    rows, columns = np.flatnonzero(lively), np.flatnonzero(across)
    return np.ascontiguousarray(picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def _aspect_ratio(clip: StoredClip) -> float:
    return round(clip.width / clip.height, 2)


def _is_same_place(one: SceneMatch, other: SceneMatch) -> bool:
    return one.clip.id == other.clip.id and abs(one.seconds - other.seconds) <= _SAME_PLACE_SECONDS


_MAX_REPEAT_CHANGE = 0.25  # mean change of a shape up to which a frame is as the one before
_MAX_REPEAT_SECONDS = Fraction(1, 2)  # for which one frame may stand for others
_QUERY_RATE = 4  # frames a second of a clip that is asked about
_OFFSET_BIN_SECONDS = Fraction(1, 2)  # by which offsets may differ and be the same
_MIN_OVERLAP_FRAMES = 3  # that tell of the same offset

Progress = Callable[[Frame], None]


@dataclass(frozen=True)
class Overlap:
    """A stretch of a clip, `start` to `stop` in its own seconds, that is in a known clip as well.

    There it is `offset` seconds later. `share` is that of the stretch's frames which say so.
    """

    clip: StoredClip
    offset: Fraction
    start: Fraction
    stop: Fraction
    share: float


def add(
    clips: Sequence[Path],
    db: Path,
    selection: FrameSelection | None = None,
    progress: Progress = lambda frame: None,
) -> list[str]:
    """Remember the frames of clips; gives the names of those that are new.

    A clip that is known, by its content, is not looked at. A picture that stands is remembered
    twice a second.

    Raises:
        ScenesError, VideoError: see `annotate.errors`; the clips before are remembered.
    """
    fresh = []
    with SceneStore(db, create=True) as store:
        for path in clips:
            seen = reader.probe(path)
            if any(clip.fingerprint == seen.fingerprint for clip in store.clips()):
                continue
            known = list(_frames_to_store((selection or FrameSelection()).frames(path), progress))
            about = (seen.name, seen.fingerprint, seen.path.as_posix(), seen.width, seen.height)
            if store.add(StoredClip(0, *about, seen.duration_seconds, len(known)), known):
                fresh.append(seen.name)
    return fresh


def _frames_to_store(frames: Iterator[Frame], progress: Progress) -> Iterator[StoredFrame]:
    last: StoredFrame | None = None
    for frame in frames:
        progress(frame)
        found = fingerprint.compute(Thumbnail(frame))
        if last is None or _is_changed(found.shape, frame.seconds, last):
            last = StoredFrame(frame.index, frame.seconds, found)
            yield last


def _is_changed(shape: Picture, seconds: Fraction, last_stored: StoredFrame) -> bool:
    change = np.abs(shape.astype(np.int16) - last_stored.fingerprint.shape).mean()
    return bool(change > _MAX_REPEAT_CHANGE or seconds - last_stored.seconds >= _MAX_REPEAT_SECONDS)


def find(pictures: Sequence[Path], db: Path) -> Iterator[tuple[Path, SceneResult]]:
    """What each picture shows.

    Raises:
        ScenesError, VideoError: see `annotate.errors`.
    """
    with SceneStore(db) as store:
        index = SceneIndex(store)
        for path in pictures:
            yield path, index.find(next(iter(reader.frames(path))).image)


def find_clip(path: Path, db: Path, progress: Progress = lambda frame: None) -> list[Overlap]:
    """Which stretches of a clip are in known clips, and where there; the longest first."""
    with SceneStore(db) as store:
        index, votes = SceneIndex(store), _OffsetVotes()
        for frame in FrameSelection(rate=_QUERY_RATE).frames(path):
            progress(frame)
            votes.add(frame.seconds, index.find(frame.image))
    return votes.overlaps()


def remove(names: Sequence[str], db: Path) -> None:
    """Forget clips, by their names or the beginnings of their fingerprints.

    Raises:
        UnknownName: no clip is called so; then none is forgotten.
    """
    with SceneStore(db) as store:
        clips = store.clips()
        found = {n: [c for c in clips if c.name == n or c.fingerprint[:8] == n] for n in names}
        for name, matching in found.items():
            if not matching:
                raise UnknownName("clip", name, [clip.name for clip in clips])
        for clip in dict.fromkeys(clip for matching in found.values() for clip in matching):
            store.remove(clip)


def list_clips(db: Path) -> list[StoredClip]:
    """The clips that are known."""
    with SceneStore(db) as store:
        return store.clips()


@dataclass
class _OffsetVotes:
    """What the frames of a clip say: at which offset they stand in which known clip."""

    votes: list[tuple[Fraction, StoredClip | None, Fraction]] = field(default_factory=list)

    def add(self, seconds: Fraction, result: SceneResult) -> None:
        match = result.match
        clip, offset = (
            (None, Fraction(0)) if match is None else (match.clip, match.seconds - seconds)
        )
        self.votes.append((seconds, clip, offset))

    def overlaps(self) -> list[Overlap]:
        """One for each offset that enough frames agree on; each frame counts for one."""
        left, found = list(self.votes), []
        while True:
            bins = Counter(
                (clip, round(offset / _OFFSET_BIN_SECONDS)) for _, clip, offset in left if clip
            )
            if not bins or bins.most_common(1)[0][1] < _MIN_OVERLAP_FRAMES:
                break
            (clip, place), _ = bins.most_common(1)[0]
            agreed = [
                each
                for each in left
                if each[1] == clip
                and abs(each[2] - place * _OFFSET_BIN_SECONDS) <= _OFFSET_BIN_SECONDS
            ]
            found.append(self._overlap(clip, agreed))
            left = [each for each in left if each not in agreed]
        return sorted(found, key=lambda each: each.start - each.stop)

    def _overlap(
        self, clip: StoredClip, agreeing_votes: list[tuple[Fraction, StoredClip | None, Fraction]]
    ) -> Overlap:
        start, stop = agreeing_votes[0][0], agreeing_votes[-1][0]
        offsets = sorted(offset for _, _, offset in agreeing_votes)
        within = sum(start <= seconds <= stop for seconds, _, _ in self.votes)
        return Overlap(clip, offsets[len(offsets) // 2], start, stop, len(agreeing_votes) / within)
