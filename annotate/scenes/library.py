"""Find the stored clip and frame that a picture or another clip shows.

    library.add([clip], db)
    for path, result in library.find([picture], db): ...

A query is compared with the hashes of all stored frames; a million comparisons take a few
milliseconds. The nearest frames, as a whole picture and as a crop, are verified by template
matching. The best match is accepted below a measured distance: see `UNKNOWN_DISTANCE`.
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
from annotate.items.sequences import evenly_spaced
from annotate.sampling import phash
from annotate.sampling.thumbnail import Thumbnail
from annotate.scenes import fingerprint
from annotate.scenes.store import FrameChunk, SceneStore, StoredClip, StoredFrame
from annotate.video import reader
from annotate.video.reader import FrameSelection

# From this distance on, a picture is unknown. 950 pictures that are not of the show, from the same
# game and altered like the others (compressed, scaled down, cropped, other tones, text on top), all
# had a larger distance than 0.55; of the pictures of the show, 99 % had a smaller one than 0.3:
# `benchmarks/scenes.py`.
UNKNOWN_DISTANCE = 0.4
_WHOLE_CANDIDATES, _CROP_CANDIDATES = 60, 140  # frames that templates are fitted to
_SAME_SCENE_SECONDS = Fraction(2)  # matches of a clip within this time are the same scene
_NEIGHBOUR_FRAMES = 45  # stored frames before and after the best fit that are fitted too
_AGREEMENT_TOLERANCE = 0.05  # block agreements closer than this are ties; the better fit wins
_FIT_TOLERANCE = 0.005  # correlations closer than this are ties
_COLOUR_TOLERANCE = 2.0  # layout distances closer than this are ties
_EPSILON = 1e-6
_MAX_VERIFIED = 24  # fitted frames that are verified block by block
_MAX_BORDER_CONTRAST = 8  # of the pixels of a border, darkest to brightest
_MAX_REPEAT_CHANGE = 0.25  # mean change of the shape of a repeated frame
_MAX_REPEAT_SECONDS = Fraction(1, 2)  # for which one frame can stand for its repetitions
_QUERY_RATE = 4  # frames a second of a query clip
_OFFSET_BIN_SECONDS = Fraction(1, 2)  # offsets within this time are the same
_MIN_OVERLAP_FRAMES = 3  # frames that must agree on an offset

RowIndices = npt.NDArray[np.intp]
Progress = Callable[[Frame], None]


@dataclass(frozen=True)
class SceneMatch:
    """A stored frame that matches a query; `distance` is 0 for the same picture, up to 1."""

    clip: StoredClip
    frame: int
    seconds: Fraction
    distance: float


@dataclass(frozen=True)
class SceneResult:
    """The match of a query, None if it is unknown; the nearest frame; the nearest other scene."""

    match: SceneMatch | None
    nearest: SceneMatch | None
    runner_up: SceneMatch | None


class SceneIndex:
    """The hashes of all frames of a database, in memory, for queries."""

    def __init__(self, store: SceneStore) -> None:
        clips = {clip.id: clip for clip in store.clips()}
        self._shapes_and_layouts = lru_cache(maxsize=512)(store.shapes_and_layouts)
        by_aspect = sorted(store.chunks(), key=lambda c: (_aspect_ratio(clips[c.clip_id]), c.id))
        self._groups = [
            _AspectGroup(aspect, list(chunks), clips)
            for aspect, chunks in groupby(by_aspect, key=lambda c: _aspect_ratio(clips[c.clip_id]))
        ]

    def find(self, picture: Picture) -> SceneResult:
        """Find the frame that a picture, (H, W, 3) RGB, shows; if unknown, try without borders."""
        result = self._find_uncropped(picture)
        if result.match is None and (inner := crop_borders(picture)).shape != picture.shape:
            inner_result = self._find_uncropped(inner)
            return result if inner_result.match is None else inner_result
        return result

    def _find_uncropped(self, picture: Picture) -> SceneResult:
        thumbnail = Thumbnail(fingerprint.single_frame(picture))
        matches = [match for group in self._groups for match in self._matches(group, thumbnail)]
        matches.sort(key=lambda match: match.distance)
        if not matches:
            return SceneResult(None, None, None)
        best = matches[0]
        other_scenes = (match for match in matches if not _is_same_scene(match, best))
        accepted = best if best.distance < UNKNOWN_DISTANCE else None
        return SceneResult(accepted, best, next(other_scenes, None))

    def _matches(self, group: _AspectGroup, thumbnail: Thumbnail) -> list[SceneMatch]:
        """Match the frames that fit best; the one that wins a tie has the smallest distance."""
        templates = fingerprint.crop_templates(thumbnail.small_grey, group.aspect)
        rows = group.candidates(thumbnail.small_grey)
        shapes = self._shapes(group, rows)
        fits = fingerprint.fit_templates(shapes, templates)
        neighbours = np.setdiff1d(group.neighbours(int(rows[fits.correlation.argmax()])), rows)
        if len(neighbours):
            more = self._shapes(group, neighbours)
            fits = fits.concatenated(fingerprint.fit_templates(more, templates))
            rows, shapes = np.concatenate([rows, neighbours]), np.concatenate([shapes, more])
        best = np.argsort(-fits.correlation, kind="stable")[:_MAX_VERIFIED]
        best_templates = [templates[fits.template_index[n]] for n in best]
        agreements = np.array(
            [
                fingerprint.block_agreement(shapes[n], template, fits.y[n], fits.x[n])
                for n, template in zip(best, best_templates, strict=True)
            ]
        )
        correlations = fits.correlation[best]
        near = agreements >= agreements.max() - _AGREEMENT_TOLERANCE
        ties = np.flatnonzero(near & (correlations >= correlations[near].max() - _FIT_TOLERANCE))
        if len(best_templates[ties[0]]) == fingerprint.SHAPE_WH[1]:  # the whole frame, not a crop
            ties = ties[self._has_matching_colours(rows[best[ties]], group, thumbnail)]
        agreements[ties[_middle_tie(rows[best[ties]], group)]] = agreements.max() + _EPSILON
        return [
            group.match(int(row), 1 - min(float(agreement), 1.0))
            for row, agreement in zip(rows[best], agreements, strict=True)
        ]

    def _shapes(self, group: _AspectGroup, rows: RowIndices) -> fingerprint.Shapes:
        positions = map(group.chunk_position, rows)
        return np.array([self._shapes_and_layouts(chunk)[0][at] for chunk, at in positions])

    def _has_matching_colours(
        self, rows: RowIndices, group: _AspectGroup, thumbnail: Thumbnail
    ) -> npt.NDArray[np.bool_]:
        """Select the rows whose colour layout is nearest to that of the query, (n,) bool."""
        positions = map(group.chunk_position, rows)
        layouts = np.array([self._shapes_and_layouts(chunk)[1][at] for chunk, at in positions])
        query = fingerprint.colour_layout(thumbnail.small_rgb)
        distances = fingerprint.layout_distances(query, layouts)
        return np.asarray(distances <= distances.min() + _COLOUR_TOLERANCE)


def _middle_tie(rows: RowIndices, group: _AspectGroup) -> int:
    """Choose among tied matches: the middle frame of the scene of the first one.

    For a still picture, the middle of the time that it is shown is the best answer.
    """
    first = group.match(int(rows[0]), 0)
    same = [n for n, row in enumerate(rows) if _is_same_scene(group.match(int(row), 0), first)]
    return sorted(same, key=lambda n: int(rows[n]))[len(same) // 2]


class _AspectGroup:
    """The stored frames of all clips of one aspect ratio; a row is the index of a frame."""

    def __init__(
        self, aspect: float, chunks: list[FrameChunk], clips: dict[int, StoredClip]
    ) -> None:
        self.aspect, self._chunks, self._clips = aspect, chunks, clips
        sizes = [len(chunk.frames) for chunk in chunks]
        self._starts = np.cumsum([0, *sizes])
        self._clip_ids = np.repeat([chunk.clip_id for chunk in chunks], sizes)
        self._hashes = np.ascontiguousarray(np.concatenate([c.hashes for c in chunks]).T)

    def candidates(self, grey: Picture) -> RowIndices:
        """Select the rows nearest to a query as a whole picture, and as a crop."""
        parts = fingerprint.crop_parts(round(grey.shape[1] / grey.shape[0], 2), self.aspect)
        whole, *part_hashes = fingerprint.hash_parts(grey, [fingerprint.WHOLE_PICTURE, *parts])
        as_whole = phash.hamming_distances(int(whole), self._hashes[0])
        as_crop = as_whole.copy()
        for part, part_hash in zip(parts, part_hashes, strict=True):
            distances = phash.hamming_distances(int(part_hash), self._hashes[part.part_index])
            np.minimum(as_crop, distances, out=as_crop)
        return np.union1d(
            nearest_rows(as_whole, _WHOLE_CANDIDATES), nearest_rows(as_crop, _CROP_CANDIDATES)
        )

    def neighbours(self, row: int) -> RowIndices:
        """List the rows of the same clip around a row."""
        rows = np.arange(
            max(row - _NEIGHBOUR_FRAMES, 0), min(row + _NEIGHBOUR_FRAMES + 1, len(self._clip_ids))
        )
        return np.asarray(rows[self._clip_ids[rows] == self._clip_ids[row]])

    def chunk_position(self, row: int) -> tuple[int, int]:
        """Find the id of the chunk that holds a row, and the position in it."""
        chunk_index, position = self._locate(row)
        return self._chunks[chunk_index].id, position

    def match(self, row: int, distance: float) -> SceneMatch:
        """Make the match of a row."""
        chunk_index, position = self._locate(row)
        chunk = self._chunks[chunk_index]
        clip, seconds = self._clips[chunk.clip_id], Fraction(chunk.seconds[position])
        return SceneMatch(clip, int(chunk.frames[position]), seconds, distance)

    def _locate(self, row: int) -> tuple[int, int]:
        chunk_index = int(np.searchsorted(self._starts, row, side="right")) - 1
        return chunk_index, int(row - self._starts[chunk_index])


def nearest_rows(distances: npt.NDArray[np.uint8], count: int) -> RowIndices:
    """List the rows of the `count` smallest distances, ascending; ties are spread evenly."""
    if len(distances) <= count:
        return np.arange(len(distances))
    cumulative = np.bincount(distances, minlength=phash.BITS + 1).cumsum()
    largest = int(np.searchsorted(cumulative, count))
    rows, ties = np.flatnonzero(distances < largest), np.flatnonzero(distances == largest)
    return np.union1d(rows, ties[evenly_spaced(len(ties), count - len(rows))])


def crop_borders(picture: Picture) -> Picture:
    """Crop the bars of one colour that a player puts around a picture."""
    brightness = picture.astype(np.int16).max(axis=2)
    rows = np.flatnonzero(np.ptp(brightness, axis=1) > _MAX_BORDER_CONTRAST)
    columns = np.flatnonzero(np.ptp(brightness, axis=0) > _MAX_BORDER_CONTRAST)
    if not len(rows) or not len(columns):
        return picture
    return np.ascontiguousarray(picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def _aspect_ratio(clip: StoredClip) -> float:
    return round(clip.width / clip.height, 2)


def _is_same_scene(one: SceneMatch, other: SceneMatch) -> bool:
    return one.clip.id == other.clip.id and abs(one.seconds - other.seconds) <= _SAME_SCENE_SECONDS


@dataclass(frozen=True)
class Overlap:
    """A part of a query clip, `start` to `stop` in its own seconds, that a stored clip has too.

    There it is `offset` seconds later. `share` is the share of its frames that agree on this.
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
    """Add the frames of clips to a database; returns the names of the clips that are new.

    Clips that the database has already, by their content, are skipped. Of a still picture, two
    frames a second are stored.

    Raises:
        ScenesError, VideoError: see `annotate.errors`; the clips before are stored.
    """
    added = []
    with SceneStore(db, create=True) as store:
        for path in clips:
            video = reader.probe(path)
            if any(clip.fingerprint == video.fingerprint for clip in store.clips()):
                continue
            frames = (selection or FrameSelection()).frames(path)
            stored = list(_frames_to_store(frames, progress))
            clip = StoredClip(
                id=0,
                name=video.name,
                fingerprint=video.fingerprint,
                path=video.path.as_posix(),
                width=video.width,
                height=video.height,
                duration=video.duration_seconds,
                frame_count=len(stored),
            )
            if store.add(clip, stored):
                added.append(video.name)
    return added


def _frames_to_store(frames: Iterator[Frame], progress: Progress) -> Iterator[StoredFrame]:
    last: StoredFrame | None = None
    for frame in frames:
        progress(frame)
        computed = fingerprint.compute(Thumbnail(frame))
        if last is None or _is_changed(computed.shape, frame.seconds, last):
            last = StoredFrame(frame.index, frame.seconds, computed)
            yield last


def _is_changed(shape: Picture, seconds: Fraction, last_stored: StoredFrame) -> bool:
    change = np.abs(shape.astype(np.int16) - last_stored.fingerprint.shape).mean()
    return bool(change > _MAX_REPEAT_CHANGE or seconds - last_stored.seconds >= _MAX_REPEAT_SECONDS)


def find(pictures: Sequence[Path], db: Path) -> Iterator[tuple[Path, SceneResult]]:
    """Find the stored frame that each picture shows.

    Raises:
        ScenesError, VideoError: see `annotate.errors`.
    """
    with SceneStore(db) as store:
        index = SceneIndex(store)
        for path in pictures:
            yield path, index.find(next(iter(reader.frames(path))).image)


def find_clip(path: Path, db: Path, progress: Progress = lambda frame: None) -> list[Overlap]:
    """Find the parts of a clip that stored clips have too; the longest first."""
    with SceneStore(db) as store:
        index, votes = SceneIndex(store), _OffsetVotes()
        for frame in FrameSelection(rate=_QUERY_RATE).frames(path):
            progress(frame)
            votes.add(frame.seconds, index.find(frame.image))
    return votes.overlaps()


def remove(names: Sequence[str], db: Path) -> None:
    """Remove clips, by their names or the first eight letters of their fingerprints.

    Raises:
        UnknownName: a name fits no clip; then no clip is removed.
    """
    with SceneStore(db) as store:
        clips = store.clips()
        removed: dict[StoredClip, None] = {}
        for name in names:
            matching = [c for c in clips if name in (c.name, c.fingerprint[:8])]
            if not matching:
                raise UnknownName("clip", name, [clip.name for clip in clips])
            removed |= dict.fromkeys(matching)
        for clip in removed:
            store.remove(clip)


def list_clips(db: Path) -> list[StoredClip]:
    """List the clips of a database."""
    with SceneStore(db) as store:
        return store.clips()


@dataclass(frozen=True)
class _OffsetVote:
    """The answer for a frame of a query clip: its time there, the stored clip, and the offset."""

    seconds: Fraction
    clip: StoredClip | None
    offset: Fraction


@dataclass
class _OffsetVotes:
    """The votes of the frames of a query clip."""

    votes: list[_OffsetVote] = field(default_factory=list)

    def add(self, seconds: Fraction, result: SceneResult) -> None:
        match = result.match
        if match is None:
            self.votes.append(_OffsetVote(seconds, None, Fraction(0)))
        else:
            self.votes.append(_OffsetVote(seconds, match.clip, match.seconds - seconds))

    def overlaps(self) -> list[Overlap]:
        """List an overlap for each offset that enough frames agree on; a vote is used once."""
        remaining, overlaps = list(self.votes), []
        while True:
            bins = Counter(
                (vote.clip, round(vote.offset / _OFFSET_BIN_SECONDS))
                for vote in remaining
                if vote.clip is not None
            )
            if not bins or bins.most_common(1)[0][1] < _MIN_OVERLAP_FRAMES:
                break
            (clip, offset_bin), _ = bins.most_common(1)[0]
            centre = offset_bin * _OFFSET_BIN_SECONDS
            agreeing = [
                vote
                for vote in remaining
                if vote.clip == clip and abs(vote.offset - centre) <= _OFFSET_BIN_SECONDS
            ]
            overlaps.append(self._overlap(clip, agreeing))
            remaining = [vote for vote in remaining if vote not in agreeing]
        return sorted(overlaps, key=lambda overlap: overlap.start - overlap.stop)

    def _overlap(self, clip: StoredClip, agreeing: list[_OffsetVote]) -> Overlap:
        start, stop = agreeing[0].seconds, agreeing[-1].seconds
        offset = sorted(vote.offset for vote in agreeing)[len(agreeing) // 2]
        vote_count = sum(start <= vote.seconds <= stop for vote in self.votes)
        return Overlap(clip, offset, start, stop, len(agreeing) / vote_count)
