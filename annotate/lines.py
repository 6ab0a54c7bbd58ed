"""A header and an item, each as a line of JSON."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any

from annotate import __version__
from annotate.errors import ItemsError
from annotate.records import Item, Object

FORMAT = 1
_EDGE = 0.51  # pixels by which a box may overhang its picture: half a pixel of rounding


@dataclass(frozen=True)
class Header:
    """What a file of items was made from, and how.

    `settings` are all the options that shape the result. `vocabulary` is {"name", "sha256",
    "labels"}. `videos` is name -> {"path", "fingerprint", "frame_count", "width", "height"}.
    """

    stage: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    vocabulary: Mapping[str, Any] = field(default_factory=dict)
    videos: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    version: str = __version__

    def to_json(self) -> str:
        """The header's line, without the line's end."""
        return dumps({"annotate": FORMAT, **asdict(self)})

    @classmethod
    def from_json(cls, line: str, where: str) -> "Header":
        """Read a header's line; `where` begins the error."""
        record = record_from_json(line, where)
        if "annotate" not in record:
            raise ItemsError(f"{where}: not a file of items: its first line is no header")
        if record["annotate"] > FORMAT:
            raise ItemsError(
                f"{where}: written by a newer annotate ({record.get('version')}, format "
                f"{record['annotate']}; this one reads {FORMAT}): pip install -U annotate-local"
            )
        try:
            return cls(**{key: value for key, value in record.items() if key != "annotate"})
        except TypeError as error:
            raise ItemsError(f"{where}: a damaged header: {error}") from None

    def differences(self, other: "Header") -> list[str]:
        """What differs between two runs, in words; where a video lies does not count."""
        mine, theirs = self._facts(), other._facts()
        return [
            f"{key}: {mine.get(key, 'not set')} in the file, {theirs.get(key, 'not set')} now"
            for key in {**mine, **theirs}
            if mine.get(key) != theirs.get(key)
        ]

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"annotate": self.version, "stage": self.stage, "model": self.model}
        facts |= {"vocabulary": self.vocabulary.get("name")}
        facts |= {"vocabulary's content": str(self.vocabulary.get("sha256"))[:12]}
        facts |= {f"clip {name}": video["fingerprint"][:12] for name, video in self.videos.items()}
        return {**facts, **json.loads(dumps(self.settings))}


def dumps(record: Mapping[str, Any]) -> str:
    """A record as a line, without the line's end."""
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"), default=str)


def record_from_json(line: str, where: str) -> dict[str, Any]:
    """What a line says; `where` begins the error.

    Raises:
        ItemsError: not a JSON object.
    """
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        raise ItemsError(f"{where}: not JSON: {line[:60].strip()!r}") from None
    if not isinstance(record, dict):
        raise ItemsError(f"{where}: expected a JSON object, got {line[:60].strip()!r}")
    return record


def item_to_json(item: Item) -> str:
    """An item's line, without the line's end; keys that say nothing are left out."""
    objects = []
    for thing in item.objects:
        record: dict[str, Any] = {
            "label": thing.label,
            "box": list(thing.box),
            "score": thing.score,
        }
        record |= {"track": thing.track} if thing.track is not None else {}
        record |= {"mask": dict(thing.mask)} if thing.mask is not None else {}
        flags = {"flags": list(thing.flags)} if thing.flags else {}
        by = {"by": dict(thing.by)} if thing.by is not None else {}
        phrase = {"phrase": thing.phrase} if thing.phrase else {}
        objects.append(record | {"source": thing.source} | phrase | flags | by)
    head = {"video": item.video, "frame": item.frame, "seconds": str(item.seconds)}
    size = {"width": item.width, "height": item.height}
    lost = {"lost": list(item.lost)} if item.lost else {}
    dropped = {"dropped": dict(item.dropped)} if item.dropped is not None else {}
    return dumps(head | size | {"objects": objects} | lost | dropped)


def item_from_json(line: str, where: str) -> Item:
    """Read and check an item's line; `where` begins the error.

    Raises:
        ItemsError: not an item, a box outside the picture, a mask of another size.
    """
    return item_from_record(record_from_json(line, where), where)


def item_from_record(record: Mapping[str, Any], where: str) -> Item:
    """Check what an item's line says; as `item_from_json` does."""
    try:
        width, height = int(record["width"]), int(record["height"])
        objects = tuple(_object(each, width, height) for each in record["objects"])
        seconds = Fraction(record["seconds"])
        told = tuple(record.get("lost", ())), record.get("dropped")
        return Item(record["video"], record["frame"], seconds, width, height, objects, *told)
    except KeyError as error:
        raise ItemsError(f"{where}: an item without {error}") from None
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ItemsError(f"{where}: {error}") from None


def _object(record: Mapping[str, Any], width: int, height: int) -> Object:
    x1, y1, x2, y2 = box = tuple(map(float, record["box"]))
    if not all(map(math.isfinite, box)) or x2 < x1 or y2 < y1:
        raise ValueError(f"box {list(box)} is not x1, y1, x2, y2")
    if min(x1, y1) < -_EDGE or x2 > width + _EDGE or y2 > height + _EDGE:
        raise ValueError(f"box {list(box)} is outside the picture of {width}x{height}")
    mask = record.get("mask")
    if mask is not None and list(mask["size"]) != [height, width]:
        raise ValueError(f"a mask of size {mask['size']}, but the picture is {[height, width]}")
    told = record.get
    return Object(
        record["label"],
        (x1, y1, x2, y2),
        score=told("score"),
        track=told("track"),
        mask=mask,
        source=told("source", ""),
        phrase=told("phrase", ""),
        flags=tuple(told("flags", ())),
        by=told("by"),
    )
