"""Compare a dataset with its corrected version: what a person changed, object by object.

An object that nobody touched is found by its content; a changed one by the id of the region under
which a person changed it; any other, as in datasets of other programs, by the box that overlaps it
most.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from annotate.dataset.folder import Dataset, external_id, object_ids
from annotate.errors import DatasetError
from annotate.items import masks
from annotate.items.records import Box, Item, Object

if TYPE_CHECKING:
    import pandas as pd


KINDS = ("kept", "moved", "relabelled", "deleted", "added")
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
_MIN_MATCH_IOU = 0.3  # IoU from which two objects without a common region are one that was changed


@dataclass(frozen=True)
class ObjectChange:
    """What became of one object: `was` is None where it was added, `now` where it was deleted.

    `item` is the corrected frame and `image` its picture's name. `iou` is of masks where both have
    one, else of boxes; 0 where there is only one of the two.
    """

    image: str
    item: Item
    before: Object | None
    after: Object | None
    iou: float

    @property
    def kind(self) -> str:
        """Kept, moved (its shape changed), relabelled, deleted, or added."""
        if self.before is None or self.after is None:
            return "added" if self.before is None else "deleted"
        if self.before.label != self.after.label:
            return "relabelled"
        same = (self.before.box, self.before.mask) == (self.after.box, self.after.mask)
        return "kept" if same else "moved"

    @property
    def object(self) -> Object:
        """What was proposed, or what was added."""
        found = self.before or self.after
        assert found is not None
        return found


def diff_datasets(dataset: Dataset, corrected: Dataset) -> list[ObjectChange]:
    """What became of each object on the frames that both datasets have.

    Raises:
        DatasetError: they have no frame in common.
    """
    now = {external_id(corrected, s.item.video, s.item.frame): s.item for s in corrected}
    found: list[ObjectChange] = []
    frames = 0
    for sample in dataset:
        item = now.get(external_id(dataset, sample.item.video, sample.item.frame))
        if item is not None:
            frames += 1
            pairs = _pair_objects(sample.item.objects, item.objects)
            found += [
                ObjectChange(sample.image, item, was, new, _object_iou(was, new))
                for was, new in pairs
            ]
    if not frames:
        raise DatasetError(f"{corrected.path}: it has no frame of {dataset.path}")
    return found


def _pair_objects(
    before: Sequence[Object], after: Sequence[Object]
) -> Iterator[tuple[Object | None, Object | None]]:
    """Each object with what became of it."""
    old = dict(zip(object_ids(before), before, strict=True))
    new = dict(zip(_object_names(after), after, strict=True))
    for name in [name for name in old if name in new]:
        yield old.pop(name), new.pop(name)
    left, right = list(old.values()), list(new.values())
    pairs = _match_by_iou(left, right)
    yield from ((left[row], right[column]) for row, column in pairs)
    yield from ((left[n], None) for n in range(len(left)) if n not in [row for row, _ in pairs])
    yield from ((None, right[n]) for n in range(len(right)) if n not in [col for _, col in pairs])


def _object_names(objects: Sequence[Object]) -> list[str]:
    """The region of each object that somebody changed, and the content of each other."""
    plain = iter(object_ids([thing for thing in objects if thing.by is None]))
    return [next(plain) if thing.by is None else thing.by["region"] for thing in objects]


def _match_by_iou(before: Sequence[Object], after: Sequence[Object]) -> list[tuple[int, int]]:
    """Places of pairs that are surely one thing, those that cover each other most first."""
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    if not before or not after:
        return []
    covers = np.array([[_box_iou(one.box, other.box) for other in after] for one in before])
    rows, columns = linear_sum_assignment(covers, maximize=True)
    pairs = zip(rows.tolist(), columns.tolist(), strict=True)
    return [(row, column) for row, column in pairs if covers[row, column] >= _MIN_MATCH_IOU]


def _object_iou(before: Object | None, after: Object | None) -> float:
    if before is None or after is None:
        return 0.0
    if before.mask is not None and after.mask is not None:
        return 1.0 if before.mask == after.mask else masks.iou(before.mask, after.mask)
    return _box_iou(before.box, after.box)


def _box_iou(one: Box, other: Box) -> float:
    if one == other:
        return 1.0
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    both = max(across, 0.0) * max(down, 0.0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return both / (areas - both) if areas > both else 0.0


def to_dataframe(changes: Iterable[ObjectChange]) -> pd.DataFrame:
    """A row an object; `class` is what was proposed, and `new_class` what it became."""
    import pandas as pd

    rows = []
    for change in changes:
        by = (change.after and change.after.by) or {}
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
                "who": by.get("who"),
                "when": by.get("when"),
            }
        )
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def summarize(changes: Iterable[ObjectChange]) -> pd.DataFrame:
    """A row a class and source: how many of each kind, and what share was left to a person.

    `iou` is the mean of what was moved. `work` is all that was not kept, of all that was proposed
    or added.
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
