"""Compare a dataset with its corrected version: what a person changed, object by object.

An unchanged object is matched by its content, and a changed one by the id of the Label Studio
region that the person edited. All others, as in datasets of other programs, are matched by the IoU
of their boxes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from annotate.dataset.folder import Dataset, external_id, object_ids
from annotate.errors import DatasetError
from annotate.items import masks
from annotate.items.boxes import iou, iou_matrix
from annotate.items.records import Item, Object

if TYPE_CHECKING:
    import pandas as pd


KINDS = ("kept", "moved", "relabelled", "deleted", "added")
# Deliberate acts of a person: a click or a key 1, a drag (draw, move or resize) 2.
TOUCHES = {"kept": 0, "moved": 2, "relabelled": 1, "deleted": 1, "added": 2}
LOOK_TOUCHES = 1  # to look at a frame and submit it
_OBJECT_COLUMNS = (
    "image",
    "video",
    "frame",
    "kind",
    "class",
    "new_class",
    "source",
    "score",
    "iou",
)
_COLUMNS = (*_OBJECT_COLUMNS, "who", "when")
_MIN_MATCH_IOU = 0.3  # of two boxes that can be one object before and after its change


@dataclass(frozen=True)
class ObjectChange:
    """One object `before` and `after` the correction.

    `before` is None for an added object, `after` for a deleted one. `item` is the corrected frame
    and `image` the name of its image. `iou` compares the masks where both have one, else the boxes;
    it is 0 where one of the two is None.
    """

    image: str
    item: Item
    before: Object | None
    after: Object | None
    iou: float

    @property
    def kind(self) -> str:
        """kept, moved (another box or mask), relabelled, deleted or added."""
        if self.before is None or self.after is None:
            return "added" if self.before is None else "deleted"
        if self.before.label != self.after.label:
            return "relabelled"
        same = (self.before.box, self.before.mask) == (self.after.box, self.after.mask)
        return "kept" if same else "moved"

    @property
    def object(self) -> Object:
        """The object before the change; the added object where there was none."""
        obj = self.before or self.after
        assert obj is not None
        return obj


def diff_datasets(dataset: Dataset, corrected: Dataset) -> list[ObjectChange]:
    """List the change of each object on the frames that both datasets have.

    Raises:
        DatasetError: the datasets have no frame in common.
    """
    corrected_items = {
        external_id(corrected, sample.item.video, sample.item.frame): sample.item
        for sample in corrected
    }
    changes: list[ObjectChange] = []
    frame_count = 0
    for sample in dataset:
        item = corrected_items.get(external_id(dataset, sample.item.video, sample.item.frame))
        if item is not None:
            frame_count += 1
            changes += [
                ObjectChange(sample.image, item, before, after, _object_iou(before, after))
                for before, after in _pair_objects(sample.item.objects, item.objects)
            ]
    if not frame_count:
        raise DatasetError(f"{corrected.path}: it has no frame of {dataset.path}")
    return changes


def _pair_objects(
    before: Sequence[Object], after: Sequence[Object]
) -> Iterator[tuple[Object | None, Object | None]]:
    """Pair the objects of a frame before and after its correction; None for no partner."""
    old = dict(zip(object_ids(before), before, strict=True))
    new = dict(_named_objects(after))
    for name in [name for name in old if name in new]:
        yield old.pop(name), new.pop(name)
    left, right = list(old.values()), list(new.values())
    pairs = _match_by_iou(left, right)
    yield from ((left[row], right[column]) for row, column in pairs)
    yield from ((left[n], None) for n in range(len(left)) if n not in [row for row, _ in pairs])
    yield from ((None, right[n]) for n in range(len(right)) if n not in [col for _, col in pairs])


def _named_objects(objects: Sequence[Object]) -> Iterator[tuple[str, Object]]:
    """Name each object: by its region where a person changed it, else by its content.

    A name that comes again, as of regions without an id, gets the number of its object.
    """
    unchanged = iter(object_ids([obj for obj in objects if obj.by is None]))
    names = set[str]()
    for number, obj in enumerate(objects):
        name = next(unchanged) if obj.by is None else str(obj.by.get("region"))
        yield (f"{name}/{number}" if name in names else name), obj
        names.add(name)


def _match_by_iou(before: Sequence[Object], after: Sequence[Object]) -> list[tuple[int, int]]:
    """Match objects by the IoU of their boxes, so that its sum is largest: pairs of indices."""
    from scipy.optimize import linear_sum_assignment

    if not before or not after:
        return []
    ious = iou_matrix([obj.box for obj in before], [obj.box for obj in after])
    rows, columns = linear_sum_assignment(ious, maximize=True)
    pairs = zip(rows.tolist(), columns.tolist(), strict=True)
    return [(row, column) for row, column in pairs if ious[row, column] >= _MIN_MATCH_IOU]


def _object_iou(before: Object | None, after: Object | None) -> float:
    if before is None or after is None:
        return 0.0
    if before.mask is not None and after.mask is not None:
        return 1.0 if before.mask == after.mask else masks.iou(before.mask, after.mask)
    return 1.0 if before.box == after.box else iou(before.box, after.box)


def to_dataframe(changes: Iterable[ObjectChange]) -> pd.DataFrame:
    """Make a table, a row per object: `class` as proposed, `new_class` as corrected."""
    import pandas as pd

    rows = []
    for change in changes:
        provenance = (change.after and change.after.by) or {}
        rows.append(
            {
                "image": change.image,
                "video": change.item.video,
                "frame": change.item.frame,
                "kind": change.kind,
                "class": change.object.label,
                "new_class": change.after.label if change.after else None,
                "source": change.object.source,
                "score": change.object.score,
                "iou": change.iou,
                "who": provenance.get("who"),
                "when": provenance.get("when"),
            }
        )
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def count_touches(changes: Iterable[ObjectChange], frames: int, classes: int) -> int:
    """Count the touches that the corrections of so many frames took; see `TOUCHES`.

    An added object takes one more where there are several classes to choose from. It is the count
    of acts that the result needs, not of those that a person made.
    """
    kinds = [change.kind for change in changes]
    named = kinds.count("added") * (classes > 1)
    return sum(TOUCHES[kind] for kind in kinds) + named + LOOK_TOUCHES * frames


def count_common_frames(dataset: Dataset, corrected: Dataset) -> int:
    """Count the frames that both datasets have."""
    names = {external_id(corrected, s.item.video, s.item.frame) for s in corrected}
    return sum(external_id(dataset, s.item.video, s.item.frame) in names for s in dataset)


def summarize(changes: Iterable[ObjectChange]) -> pd.DataFrame:
    """Count the changes by class and source: a row for each, a column per kind.

    `iou` is the mean IoU of moved objects. `work` is the share of all proposed and added objects
    that a person changed.
    """
    import pandas as pd

    rows = to_dataframe(changes)
    names = ["class", "source"]
    counts = pd.crosstab([rows[name] for name in names], rows["kind"])
    counts = counts.reindex(columns=list(KINDS), fill_value=0)
    moved = rows[rows["kind"] == "moved"].groupby(names)["iou"].mean()
    counts["iou"] = moved.reindex(counts.index)
    counts["work"] = 1 - counts["kept"] / counts[list(KINDS)].sum(axis=1)
    counts.columns.name = None
    return counts
