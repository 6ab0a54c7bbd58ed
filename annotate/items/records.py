"""Define Frame, Object, Item, Vocabulary, Prompt and Header, and their JSON lines.

All are frozen dataclasses. They are the values that the other packages exchange. Records read
from JSON are checked: finite boxes inside the picture, masks of the picture's size.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from annotate import __version__
from annotate.errors import ItemsError
from annotate.files import parse_json
from annotate.items.foreign_records import shown

Picture = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Box = tuple[float, float, float, float]
State = Mapping[str, npt.NDArray[Any]]  # of a pass over a clip: arrays by name
Rle = Mapping[str, Any]


@dataclass(frozen=True)
class Frame:
    """One picture of a video, and its position in the video.

    `image` is RGB, (H, W, 3), uint8. `index` counts the pictures of a full decode from 0. `seconds`
    is exact, so that two sampling methods give the same picture the same time.

    Examples:
        >>> frame = Frame("dock.mp4", 75, Fraction(5, 2), np.zeros((4, 6, 3), np.uint8))
        >>> frame.name, frame.size_wh
        ('dock.mp4#75', (6, 4))
    """

    video: str
    index: int
    seconds: Fraction
    image: Picture = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.image.dtype != np.uint8 or self.image.ndim != 3 or self.image.shape[2] != 3:
            got = f"{self.image.shape} {self.image.dtype}"
            raise ValueError(f"{self.name}: image must be (H, W, 3) uint8, got {got}")

    @property
    def name(self) -> str:
        """The name of the frame in messages: `dock.mp4#75`."""
        return f"{self.video}#{self.index}"

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height, in this order everywhere."""
        height, width = self.image.shape[:2]
        return width, height


@dataclass(frozen=True)
class Object:
    """One annotated object on one frame.

    `box` is xyxy in pixels, x2 and y2 exclusive. `score` is None when the model gives none. `mask`
    is COCO compressed RLE, `counts` a str. `track` is the id of the same object through the video.
    `flags` name what looks wrong with the object: see `annotate.propagators.flags`. `by` names the
    person who changed it, {"who", "when", "region"}; None if it was not changed. `phrase` is the
    phrase by which a detector found it.
    """

    label: str
    box: Box
    score: float | None = None
    track: int | None = None
    mask: Rle | None = None
    source: str = ""
    flags: tuple[str, ...] = ()
    by: Mapping[str, str] | None = None
    phrase: str = ""


@dataclass(frozen=True)
class Item:
    """The objects of one frame: a line in a file of items.

    An item without objects is a frame that was examined and is empty. `lost` are the tracks that
    a propagator has started and does not see on this frame. `dropped` is the reason not to use the
    frame: {"why"}, for a duplicate also "video", "frame" and "similarity" of the kept frame.
    `attributes` are what a person noted of the whole frame: name -> text, number or list of these.
    """

    video: str
    frame: int
    seconds: Fraction
    width: int
    height: int
    objects: tuple[Object, ...] = ()
    lost: tuple[int, ...] = ()
    dropped: Mapping[str, Any] | None = None
    attributes: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Vocabulary:
    """The classes, in the order of their ids, and each detector's phrases for them.

    Examples:
        >>> words = Vocabulary("mugs.v1", {"plate": {}, "mug": {"yolo-world": ["cup"]}}, "5e1f")
        >>> words.labels, words.phrases("yolo-world")
        (('plate', 'mug'), {1: ['cup']})
    """

    name: str
    classes: Mapping[str, Mapping[str, Any]]
    sha256: str

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes; the position of a class is its id."""
        return tuple(self.classes)

    @property
    def detectors(self) -> tuple[str, ...]:
        """The detectors for which the vocabulary has phrases."""
        return tuple(dict.fromkeys(name for words in self.classes.values() for name in words))

    def header_entry(self) -> dict[str, Any]:
        """Return the entry of the vocabulary in the header of a file of items."""
        return {"name": self.name, "sha256": self.sha256, "labels": list(self.labels)}

    def phrases(self, detector: str) -> dict[int, Any]:
        """Return class id -> the entry of `detector`, for the classes that have one."""
        entries = enumerate(self.classes.values())
        return {class_id: words[detector] for class_id, words in entries if detector in words}


@dataclass(frozen=True)
class Prompt:
    """A person's prompts of one object on one frame: points, a box, a mask, or several of them.

    `points_xy` is (N, 2) in pixels, `point_labels` is (N,), 1 inside and 0 outside. `box` is xyxy.
    `mask` is (H, W) bool. `gone` says that the object is not there, from this frame on, until its
    next positive prompt; such a prompt has no box, no mask and no points inside.
    """

    frame: int
    object_id: int
    points_xy: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)))
    point_labels: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    box: Box | None = None
    mask: Mask | None = None
    gone: bool = False

    @property
    def is_positive(self) -> bool:
        """True if the prompt says where the object is, not only where it is not."""
        return bool(self.box is not None or self.mask is not None or self.point_labels.any())


FORMAT_VERSION = 1
_MAX_SIDE_PX = 1_000_000
_MAX_SECONDS = 2**53
_SECONDS = re.compile(r"-?[0-9]{1,40}(/0*[1-9][0-9]{0,40}|\.[0-9]{1,40})?")
_MAX_OVERHANG_PX = 0.51  # pixels by which a box may overhang its picture: half a pixel of rounding


@dataclass(frozen=True)
class Header:
    """The sources and settings of a file of items: its first line.

    `settings` are all options that shape the result. `vocabulary` is {"name", "sha256",
    "labels"}. `videos` is name -> {"path", "fingerprint", "frame_count", "width", "height"}.
    """

    stage: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    vocabulary: Mapping[str, Any] = field(default_factory=dict)
    videos: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    version: str = __version__

    def to_json(self) -> str:
        """Format the header as a line, without the line end."""
        return record_to_json({"annotate": FORMAT_VERSION, **asdict(self)})

    @classmethod
    def from_json(cls, line: str, where: str) -> "Header":
        """Parse a header's line; `where` begins the error.

        Raises:
            ItemsError: not a header, or one of a newer version.
        """
        record = record_from_json(line, where)
        if "annotate" not in record:
            raise ItemsError(f"{where}: not a file of items: its first line is not a header")
        number = record.pop("annotate")
        if type(number) is not int or number > FORMAT_VERSION:
            raise ItemsError(
                f"{where}: written by a newer annotate ({shown(record.get('version'))}, format "
                f"{shown(number)}; this one reads {FORMAT_VERSION}): pip install -U annotate-local"
            )
        tables = {"settings", "vocabulary", "videos"}
        for key, value in record.items():
            if not isinstance(value, dict if key in tables else str):
                raise ItemsError(f"{where}: the header is damaged: {key} is {shown(value)}")
        for name, clip in record.get("videos", {}).items():
            if not isinstance(clip, dict):
                raise ItemsError(f"{where}: the header is damaged: {shown(name)}: {shown(clip)}")
        try:
            return cls(**record)
        except TypeError as error:
            raise ItemsError(f"{where}: the header is damaged: {error}") from None

    def differences(self, other: "Header") -> list[str]:
        """List in words how two headers differ; the paths of videos are not compared."""
        mine, theirs = self._compared_values(), other._compared_values()
        return [
            f"{key}: {mine.get(key, 'not set')} in the file, {theirs.get(key, 'not set')} now"
            for key in {**mine, **theirs}
            if mine.get(key) != theirs.get(key)
        ]

    def _compared_values(self) -> dict[str, Any]:
        values: dict[str, Any] = {
            "annotate": self.version,
            "stage": self.stage,
            "model": self.model,
        }
        values |= {"vocabulary": self.vocabulary.get("name")}
        values |= {"vocabulary's content": str(self.vocabulary.get("sha256"))[:12]}
        values |= {
            f"clip {name}": str(video.get("fingerprint"))[:12]
            for name, video in self.videos.items()
        }
        settings = json.loads(record_to_json(self.settings))
        weights = settings.pop("weights", None)
        if isinstance(weights, dict):
            values |= {f"weights of {option}": str(sha)[:12] for option, sha in weights.items()}
        return {**values, **settings}


def record_to_json(record: Mapping[str, Any]) -> str:
    """Format a record as a line of JSON, without the line end."""
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"), default=str)


def record_from_json(line: str, where: str) -> dict[str, Any]:
    """Parse a line of JSON; `where` begins the error.

    Raises:
        ItemsError: the line is not a JSON object.
    """
    try:
        line.encode()  # bytes that are not UTF-8 were read as surrogates
        record = parse_json(line)
        if "\\ud" in line.lower():
            record_to_json(record).encode()  # half of a pair of surrogates cannot be written
    except UnicodeError:
        raise ItemsError(f"{where}: not text: it has bytes that are not UTF-8") from None
    except ValueError:
        raise ItemsError(f"{where}: not JSON: {line[:60].strip()!r}") from None
    if not isinstance(record, dict):
        raise ItemsError(f"{where}: expected a JSON object, got {line[:60].strip()!r}")
    return record


def item_to_json(item: Item) -> str:
    """Format an item as a line, without the line end; empty optional keys are left out."""
    objects = []
    for obj in item.objects:
        record: dict[str, Any] = {
            "label": obj.label,
            "box": list(obj.box),
            "score": obj.score,
        }
        record |= {"track": obj.track} if obj.track is not None else {}
        record |= {"mask": dict(obj.mask)} if obj.mask is not None else {}
        flags = {"flags": list(obj.flags)} if obj.flags else {}
        by = {"by": dict(obj.by)} if obj.by is not None else {}
        phrase = {"phrase": obj.phrase} if obj.phrase else {}
        objects.append(record | {"source": obj.source} | phrase | flags | by)
    head = {"video": item.video, "frame": item.frame, "seconds": str(item.seconds)}
    size = {"width": item.width, "height": item.height}
    lost = {"lost": list(item.lost)} if item.lost else {}
    dropped = {"dropped": dict(item.dropped)} if item.dropped is not None else {}
    attributes = {"attributes": dict(item.attributes)} if item.attributes else {}
    return record_to_json(head | size | {"objects": objects} | lost | dropped | attributes)


def item_from_json(line: str, where: str) -> Item:
    """Parse and check an item's line; `where` begins the error.

    Raises:
        ItemsError: not an item, a box outside the picture, a mask of another size.
    """
    return item_from_record(record_from_json(line, where), where)


def item_from_record(record: Mapping[str, Any], where: str) -> Item:
    """Check the parsed line of an item, as `item_from_json` does."""
    try:
        width, height = (_check_whole(record[side], side, 1) for side in ("width", "height"))
        if max(width, height) > _MAX_SIDE_PX:
            raise ValueError(f"a picture of {width}x{height}")
        dropped, attributes = record.get("dropped"), record.get("attributes")
        return Item(
            _check_text(record["video"], "video"),
            _check_whole(record["frame"], "frame"),
            _check_seconds(record["seconds"]),
            width,
            height,
            tuple(_object_from_record(each, width, height) for each in _list(record, "objects")),
            tuple(_check_whole(track, "lost", None) for track in _list(record, "lost", ())),
            None if dropped is None else _check_table(dropped, "dropped"),
            None if attributes is None else _check_table(attributes, "attributes"),
        )
    except KeyError as error:
        raise ItemsError(f"{where}: the item has no {error}") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise ItemsError(f"{where}: {error}") from None


def _object_from_record(record: Any, width: int, height: int) -> Object:
    record = _check_table(record, "an object")
    x1, y1, x2, y2 = box = tuple(map(float, record["box"]))
    if not all(map(math.isfinite, box)) or x2 < x1 or y2 < y1:
        raise ValueError(f"box {list(box)} is not x1, y1, x2, y2")
    if (
        min(x1, y1) < -_MAX_OVERHANG_PX
        or x2 > width + _MAX_OVERHANG_PX
        or y2 > height + _MAX_OVERHANG_PX
    ):
        raise ValueError(f"box {list(box)} is outside the picture of {width}x{height}")
    mask, score, track, by = (record.get(key) for key in ("mask", "score", "track", "by"))
    if mask is not None:
        _check_mask(_check_table(mask, "mask"), [height, width])
    if score is not None and (type(score) not in (int, float) or not math.isfinite(score)):
        raise ValueError(f"score must be a finite number, got {shown(score)}")
    return Object(
        _check_text(record["label"], "label"),
        (x1, y1, x2, y2),
        score=score,
        track=None if track is None else _check_whole(track, "track", None),
        mask=mask,
        source=_check_text(record.get("source", ""), "source"),
        phrase=_check_text(record.get("phrase", ""), "phrase"),
        flags=tuple(_check_text(flag, "flags") for flag in _list(record, "flags", ())),
        by=None if by is None else _check_table(by, "by"),
    )


def _check_mask(mask: Mapping[str, Any], size: list[int]) -> None:
    """Check the size of a mask, and that it has run lengths, which are checked when decoded."""
    if not isinstance(mask.get("counts"), str) or not isinstance(mask.get("size"), list):
        raise ValueError("a mask must have a size and counts, COCO's compressed RLE")
    if mask["size"] != size:
        raise ValueError(f"the mask has the size {shown(mask['size'])}, but the picture is {size}")


def _check_whole(value: Any, key: str, least: int | None = 0) -> int:
    if type(value) is not int or (least is not None and value < least) or abs(value) >= 2**63:
        kind = "a whole number" if least is None else f"a whole number from {least}"
        raise ValueError(f"{key} must be {kind}, got {shown(value)}")
    return value


def _check_text(value: Any, key: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{key} must be text, got {shown(value)}")
    return value


def _check_table(value: Any, key: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{key} must have keys, got {shown(value)}")
    return value


def _list(record: Mapping[str, Any], key: str, *default: Sequence[Any]) -> Sequence[Any]:
    """Return the list under a key; without a default, KeyError where it is missing."""
    value: Sequence[Any] = record.get(key, *default) if default else record[key]
    if not isinstance(value, list | tuple):
        raise ValueError(f"{key} must be a list, got {shown(value)}")
    return value


def _check_seconds(value: Any) -> Fraction:
    is_number = type(value) in (int, float) and abs(value) < _MAX_SECONDS
    if not is_number and not (isinstance(value, str) and _SECONDS.fullmatch(value)):
        raise ValueError(f"seconds must be a time such as 5/2, got {shown(value)}")
    return Fraction(value)
