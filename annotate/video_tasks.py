"""Tracks as sequences on a video in Label Studio, and back to items of every frame.

Label Studio counts frames from 1, and finds them by the rate that it is told: the rate must be the
file's own, constant, and time must start at 0. It draws a straight line from key to key; a key that
is not enabled is the last frame on which the thing is seen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from annotate.errors import DatasetError
from annotate.ls_config import TRACKS, VIDEO
from annotate.records import Box, Item, Object
from annotate.regions import PERSON, Region

Key = Mapping[str, Any]
KIND = "videorectangle"
_PIXEL_DIGITS = 3


@dataclass(frozen=True)
class Reel:
    """A clip as a task tells of it: its frames' times, in order, and its size."""

    name: str
    size_wh: tuple[int, int]
    rate: Fraction
    seconds: Sequence[Fraction]

    @property
    def count(self) -> int:
        """How many frames it has."""
        return len(self.seconds)


def to_regions(items: Sequence[Item], reel: Reel) -> list[Region]:
    """A region for each track of a clip's items; objects without a track are left out.

    Raises:
        DatasetError: a track has two classes, or is twice on a frame.
    """
    tracks: dict[int, dict[int, Object]] = {}
    for item in items:
        for thing in item.objects:
            if thing.track is None:
                continue
            of_track = tracks.setdefault(thing.track, {})
            labels = {each.label for each in of_track.values()} | {thing.label}
            if item.frame in of_track or len(labels) > 1:
                why = "there twice" if item.frame in of_track else f"a {' and a '.join(labels)}"
                raise DatasetError(f"{item.video}#{item.frame}: track {thing.track} is {why}")
            of_track[item.frame] = thing
    looked_at = [item.frame for item in items]
    return [_region(track, seen, looked_at, reel) for track, seen in sorted(tracks.items())]


def _region(track: int, seen: Mapping[int, Object], looked_at: Sequence[int], reel: Reel) -> Region:
    following = dict(zip(looked_at, [*looked_at[1:], -1], strict=True))
    keys = [
        {**_key(frame, thing.box, reel), "enabled": following[frame] in seen}
        for frame, thing in seen.items()
    ]
    label = next(iter(seen.values())).label
    sources = list(dict.fromkeys(thing.source for thing in seen.values()))
    digest = hashlib.sha256(json.dumps([label, keys]).encode()).hexdigest()[:8]
    return {
        "id": f"track{track}-{digest}",
        "type": KIND,
        "from_name": TRACKS,
        "to_name": VIDEO,
        "value": {
            "framesCount": reel.count,
            "duration": float(reel.count / reel.rate),
            "labels": [label],
            "sequence": keys,
        },
        "meta": {"text": [", ".join([f"track {track}", *sources])]},
    }


def _key(frame: int, box: Box, reel: Reel) -> dict[str, Any]:
    (width, height), (x1, y1, x2, y2) = reel.size_wh, box
    return {
        "frame": frame + 1,
        "time": float((frame + 1) / reel.rate),
        "rotation": 0,
        "x": x1 / width * 100,
        "y": y1 / height * 100,
        "width": (x2 - x1) / width * 100,
        "height": (y2 - y1) / height * 100,
    }


_SIDES = ("x", "y", "width", "height")


def expanded(
    region: Mapping[str, Any],
    track: int,
    was: Mapping[int, Object],
    sent: Region | None,
    reel: Reel,
    by: Mapping[str, str],
) -> dict[int, Object]:
    """A region as an object on each frame on which it is seen.

    `was` are the track's own objects by frame, `sent` the region that was made of them: where the
    key and the label are theirs, they come back themselves. What lies between two such keys is what
    a straight line says, and nobody's change; all else tells who changed it.
    """
    value = region["value"]
    label = value["labels"][0]
    keys = sorted(value["sequence"], key=lambda key: int(key["frame"]))
    source = next(iter(was.values())).source if was else PERSON
    theirs = {key["frame"]: key for key in sent["value"]["sequence"]} if sent else {}
    found: dict[int, Object] = {}
    for key, after in zip(keys, [*keys[1:], None], strict=True):
        first, stop = key["frame"] - 1, _stop(key, after, reel)
        own = _same(key, theirs, ("enabled", *_SIDES))
        own &= after is None or stop == first + 1 or _same(after, theirs, _SIDES)
        for frame in range(first, stop):
            box = _between(key, after, frame + 1, reel.size_wh)
            thing = Object(label, box, None, track, source=source, by=None if own else by)
            if frame == first and frame in was and _same(key, theirs, _SIDES):
                thing = was[frame]
            changed = thing.label != label
            found[frame] = replace(thing, label=label, by=by) if changed else thing
    return found


def _stop(key: Key, after: Key | None, reel: Reel) -> int:
    """The frame, from 0, before which what a key says ends."""
    if not key.get("enabled", True):
        return int(key["frame"])
    return reel.count if after is None else int(after["frame"]) - 1


def _same(key: Key, theirs: Mapping[int, Key], facts: Sequence[str]) -> bool:
    """Whether a key says of its frame what was sent."""
    sent = theirs.get(key["frame"])
    return sent is not None and all(key.get(fact) == sent[fact] for fact in facts)


def _between(key: Key, after: Key | None, number: int, size_wh: tuple[int, int]) -> Box:
    """The box in pixels on frame `number`, from 1, of the straight line between two keys."""
    x, y, width, height = (float(key[side]) for side in _SIDES)
    if after is not None and key.get("enabled", True):
        part = (number - key["frame"]) / (after["frame"] - key["frame"])
        there = (float(after[side]) for side in _SIDES)
        here = (x, y, width, height)
        x, y, width, height = (a + (b - a) * part for a, b in zip(here, there, strict=True))
    shown = zip((x, y, x + width, y + height), (*size_wh, *size_wh), strict=True)
    cut = (min(max(side * most / 100, 0.0), float(most)) for side, most in shown)
    x1, y1, x2, y2 = (round(side, _PIXEL_DIGITS) for side in cut)
    return x1, y1, x2, y2
