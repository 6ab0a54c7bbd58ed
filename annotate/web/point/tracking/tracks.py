"""Keep the masks of each object by frame, for the prompts that they were made with.

Undo brings back the masks of earlier prompts at once, since the latest few versions of each object
are kept. Masks of another version are shown until new ones are there, marked as stale.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from annotate.items.records import Item, Object

Status = Literal["tracked", "provisional", "stale"]
Span = tuple[int, int]  # the first frame, and the one after the last
MAX_VERSIONS = 10  # of each object


@dataclass(frozen=True)
class TrackedFrame:
    """What the engine found of one object on one frame; `found` is None where it is lost.

    A provisional result may differ from that of a run over the whole clip. `context` names the
    prompts of all objects at that time, "" for an engine to which the others do not matter.
    """

    found: Object | None
    provisional: bool
    context: str = ""

    def is_settled(self, context: str) -> bool:
        """Return whether a run over the whole clip gives this result."""
        return not self.provisional and self.context == context


@dataclass(frozen=True)
class PromptMask:
    """A mask that was made of the prompts of one frame; None if it has no pixel."""

    found: Object | None
    is_rough: bool  # `refine` will replace it


class Tracks:
    """The results of all objects. `digest` names the prompts of the object they were made with."""

    def __init__(self) -> None:
        self._versions: dict[int, OrderedDict[str, dict[int, TrackedFrame]]] = {}
        self.version = 0  # grows with each result

    def put(self, object_id: int, digest: str, frame: int, result: TrackedFrame) -> None:
        """Keep a result."""
        self.version += 1
        versions = self._versions.setdefault(object_id, OrderedDict())
        frames = versions.setdefault(digest, {})
        versions.move_to_end(digest)
        frames[frame] = result
        while len(versions) > MAX_VERSIONS:
            versions.popitem(last=False)

    def get(
        self, object_id: int, digest: str, context: str, frame: int
    ) -> tuple[TrackedFrame, Status] | None:
        """Return a result and whether it is of the present prompts; None where there is none."""
        versions = self._versions.get(object_id)
        if versions is None:
            return None
        if (result := versions.get(digest, {}).get(frame)) is not None:
            return result, "tracked" if result.is_settled(context) else "provisional"
        for other in reversed(versions):
            if (result := versions[other].get(frame)) is not None:
                return result, "stale"
        return None

    def frames(self, object_id: int, digest: str) -> Mapping[int, TrackedFrame]:
        """Return the results of one version by frame."""
        versions = self._versions.get(object_id)
        return {} if versions is None else versions.get(digest, {})

    def lanes(
        self, object_id: int, digest: str, context: str, flagged: Sequence[int]
    ) -> dict[str, Any]:
        """Return the spans of frames of one object by what is known there."""
        current = self.frames(object_id, digest)
        stale: set[int] = set()
        for version, frames in self._versions.get(object_id, OrderedDict()).items():
            if version != digest:
                stale.update(frame for frame, each in frames.items() if each.found is not None)
        found = {frame: each for frame, each in current.items() if each.found is not None}
        settled = {frame for frame, each in found.items() if each.is_settled(context)}
        return {
            "tracked": spans(settled),
            "provisional": spans(set(found) - settled),
            "stale": spans(stale - set(current)),
            "lost": spans(set(current) - set(found)),
            "flagged": sorted(flagged),
        }

    def settle(self, items: Iterable[Item], digests: Mapping[int, str], context: str) -> int:
        """Take the items of a whole run; returns how many masks differ from those shown."""
        changed = 0
        for item in items:
            found: dict[int, Object | None] = dict.fromkeys(item.lost)
            found |= {obj.track: obj for obj in item.objects if obj.track is not None}
            for object_id, obj in found.items():
                digest = digests.get(object_id)
                if digest is None:
                    continue
                old = self.frames(object_id, digest).get(item.frame)
                if old is not None:
                    changed += (old.found and old.found.mask) != (obj and obj.mask)
                result = TrackedFrame(obj, False, context)
                self.put(object_id, digest, item.frame, result)
        return changed


def spans(frames: Iterable[int]) -> list[Span]:
    """Join frames into spans.

    Examples:
        >>> spans([4, 2, 3, 9])
        [(2, 5), (9, 10)]
    """
    joined: list[Span] = []
    for frame in sorted(set(frames)):
        if joined and joined[-1][1] == frame:
            joined[-1] = joined[-1][0], frame + 1
        else:
            joined.append((frame, frame + 1))
    return joined


def to_items(
    tracks: Tracks, digests: Mapping[int, str], video: str, size_wh: tuple[int, int], rate: Fraction
) -> list[Item]:
    """Join the present results of all objects into items, in order of frames.

    Times are those of a constant rate: they only say how far apart two frames are.
    """
    by_frame: dict[int, tuple[list[Object], list[int]]] = {}
    for object_id, digest in sorted(digests.items()):
        for frame, result in tracks.frames(object_id, digest).items():
            objects, lost = by_frame.setdefault(frame, ([], []))
            if result.found is None:
                lost.append(object_id)
            else:
                objects.append(result.found)
    return [
        Item(video, frame, frame / rate, *size_wh, tuple(objects), tuple(lost))
        for frame, (objects, lost) in sorted(by_frame.items())
    ]


def mask_record(obj: Object) -> dict[str, Any]:
    """Return what the page shows of an object."""
    mask = None if obj.mask is None else {"size": obj.mask["size"], "counts": obj.mask["counts"]}
    return {
        "id": obj.track,
        "mask": mask,
        "box": list(obj.box),
        "score": obj.score,
        "flags": list(obj.flags),
        "status": "provisional",
    }
