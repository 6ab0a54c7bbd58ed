"""Find the stored frame that a picture shows: hashes select candidates, templates verify them.

The hashes of a query are compared with those of all stored frames; a million comparisons take a few
milliseconds. The nearest frames, as a whole picture and as a crop, are verified by template
matching. The best match is accepted below a measured distance: see `UNKNOWN_DISTANCE`.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import groupby

import numpy as np
import numpy.typing as npt

from annotate.items.records import Picture
from annotate.items.sequences import evenly_spaced
from annotate.sampling import phash
from annotate.sampling.thumbnail import Thumbnail
from annotate.scenes import borders, fingerprint
from annotate.scenes.store import FrameChunk, SceneStore, StoredClip

# From this distance on, a picture is unknown. Measured as `benchmarks/scenes.py` does, on pictures
# that were compressed, scaled down, cropped, changed in tone or covered with text: 99 % of the
# pictures of the show had a smaller distance than 0.39, and pictures of the same game that are not
# of the show had a larger distance than 0.5.
UNKNOWN_DISTANCE = 0.45
_WHOLE_CANDIDATES, _CROP_CANDIDATES = 60, 140  # frames that templates are fitted to
_SAME_SCENE_SECONDS = Fraction(2)  # matches of a clip within this time are the same scene
_NEIGHBOUR_FRAMES = 20  # stored frames before and after the best fit that are fitted too
_CACHED_CHUNKS = 256  # unpacked chunks of frames in memory: 38 MB
_AGREEMENT_TOLERANCE = 0.05  # block agreements closer than this are ties; the better fit wins
_FIT_TOLERANCE = 0.015  # correlations closer than this are ties: the noise of packed levels
_COLOUR_TOLERANCE = 2.0  # layout distances closer than this are ties
_EPSILON = 1e-6
_MAX_VERIFIED = 24  # fitted frames that are verified block by block

RowIndices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class SceneMatch:
    """A stored frame that matches a query; `distance` is 0 for the same picture, up to 1."""

    clip: StoredClip
    frame: int
    seconds: Fraction
    distance: float


@dataclass(frozen=True)
class SceneResult:
    """The result of a query: `match` is None if it is unknown; `runner_up` is of another scene."""

    match: SceneMatch | None
    nearest: SceneMatch | None
    runner_up: SceneMatch | None


class SceneIndex:
    """The hashes of all frames of a database, in memory, for queries."""

    def __init__(self, store: SceneStore) -> None:
        clips = {clip.id: clip for clip in store.clips()}
        self._looks = lru_cache(maxsize=_CACHED_CHUNKS)(store.looks)
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
        """Match the frames that fit best; the winner of a tie gets the smallest distance."""
        templates = fingerprint.crop_templates(thumbnail.small_grey, group.aspect)
        rows = group.candidates(thumbnail.small_grey)
        levels = self._levels(group, rows)
        fits = fingerprint.fit_templates(levels, templates)
        neighbours = np.setdiff1d(group.neighbours(int(rows[fits.correlation.argmax()])), rows)
        if len(neighbours):
            further = self._levels(group, neighbours)
            fits = fits.concatenated(fingerprint.fit_templates(further, templates))
            rows, levels = np.concatenate([rows, neighbours]), np.concatenate([levels, further])
        best = np.argsort(-fits.correlation, kind="stable")[:_MAX_VERIFIED]
        best_templates = [templates[fits.template_index[n]] for n in best]
        agreements = np.array(
            [
                fingerprint.block_agreement(levels[n], template, fits.y[n], fits.x[n])
                for n, template in zip(best, best_templates, strict=True)
            ]
        )
        fidelity = self._fidelity(group, rows[best])
        agreements = np.minimum(agreements / fidelity, 1 - _EPSILON)
        correlations = fits.correlation[best] / fidelity
        agreeing = agreements >= agreements.max() - _AGREEMENT_TOLERANCE
        best_correlation = correlations[agreeing].max()
        ties = np.flatnonzero(agreeing & (correlations >= best_correlation - _FIT_TOLERANCE))
        if len(best_templates[ties[0]]) == fingerprint.SHAPE_WH[1]:  # the whole frame, not a crop
            ties = ties[self._has_matching_colours(rows[best[ties]], group, thumbnail)]
        agreements[ties[_middle_tie(rows[best[ties]], group)]] = agreements.max() + _EPSILON
        return [
            group.match(int(row), 1 - min(float(agreement), 1.0))
            for row, agreement in zip(rows[best], agreements, strict=True)
        ]

    def _levels(self, group: _AspectGroup, rows: RowIndices) -> fingerprint.Levels:
        positions = map(group.chunk_position, rows)
        return np.array([self._looks(chunk).levels[row] for chunk, row in positions])

    def _fidelity(self, group: _AspectGroup, rows: RowIndices) -> npt.NDArray[np.float64]:
        positions = map(group.chunk_position, rows)
        return np.array([self._looks(chunk).fidelity[row] for chunk, row in positions])

    def _has_matching_colours(
        self, rows: RowIndices, group: _AspectGroup, thumbnail: Thumbnail
    ) -> npt.NDArray[np.bool_]:
        """Select the rows whose colour layout is nearest to that of the query, (n,) bool."""
        positions = map(group.chunk_position, rows)
        layouts = np.array([self._looks(chunk).layouts[row] for chunk, row in positions])
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
    box = borders.content_box(picture)
    return picture if box is None else borders.crop(picture, box)


def _aspect_ratio(clip: StoredClip) -> float:
    return round(clip.width / clip.height, 2)


def _is_same_scene(one: SceneMatch, other: SceneMatch) -> bool:
    return one.clip.id == other.clip.id and abs(one.seconds - other.seconds) <= _SAME_SCENE_SECONDS
