"""Show what a person said of an object on a frame, and the mask that it gave."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from annotate import masks
from annotate.markers import mark_box, mark_mask, mark_points
from annotate.paint import with_masks
from annotate.prompts import PromptTable
from annotate.records import Box, Frame, Item, Object, Picture, Prompt
from annotate.sheet import Cell, cell_width
from annotate.view import View, around


def cells(
    prompts: PromptTable,
    frames: Iterable[Frame],
    items: Mapping[int, Item] | None,
    labels: Sequence[str],
) -> list[Cell]:
    """A cell for each prompt, frame by frame.

    `frames` are all that are prompted; `items`, by frame, hold the masks, if there are any yet.
    `labels` are all classes.
    """
    room = cell_width(len(prompts.prompts))
    given = defaultdict(list)
    for prompt in prompts.prompts:
        given[prompt.frame].append(prompt)
    made = []
    for frame in frames:
        item = None if items is None else items.get(frame.index, _empty(frame))
        for prompt in given[frame.index]:
            thing = None if item is None else _answer(item, prompt.object_id)
            view = around(_extent(prompt, thing), frame.size_wh, room)
            picture = _picture(frame, prompt, thing, view, labels)
            said = f"{_words(prompt)}{'' if thing or item is None else ' → nothing'}"
            title = f"frame {frame.index} · {float(frame.seconds):.2f} s"
            name = f"#{prompt.object_id} {prompts.labels[prompt.object_id]}"
            made.append(Cell(picture, title, f"{name} · {said}"))
    return made


def _empty(frame: Frame) -> Item:
    return Item(frame.video, frame.index, frame.seconds, *frame.size_wh)


def _answer(item: Item, object_id: int) -> Object | None:
    """What was found of the object on that frame."""
    return next((thing for thing in item.objects if thing.track == object_id), None)


def _extent(prompt: Prompt, thing: Object | None) -> Box:
    """A box round all that was said and all that was found."""
    boxes = [(x, y, x + 1, y + 1) for x, y in prompt.points_xy]
    said = None if prompt.mask is None else masks.box(prompt.mask)
    boxes += [box for box in (prompt.box, said, thing and thing.box) if box]
    x1, y1, x2, y2 = zip(*boxes, strict=True)
    return min(x1), min(y1), max(x2), max(y2)


def _picture(
    frame: Frame, prompt: Prompt, thing: Object | None, view: View, labels: Sequence[str]
) -> Picture:
    item = replace(_empty(frame), objects=(thing,) if thing else ())
    picture = with_masks(view.of_image(frame.image), view.of_item(item), labels)
    if prompt.mask is not None:
        mark_mask(picture, view.of_mask(prompt.mask))
    if prompt.box is not None:
        mark_box(picture, view.of_box(prompt.box))
    mark_points(picture, view.of_points(prompt.points_xy), prompt.point_labels)
    return picture


def _words(prompt: Prompt) -> str:
    """What was said, in short: `2+ 1− box`."""
    inside = int(np.count_nonzero(prompt.point_labels))
    outside = len(prompt.point_labels) - inside
    said = {
        f"{inside}+": inside > 0,
        f"{outside}−": outside > 0,
        "box": prompt.box is not None,
        "mask": prompt.mask is not None,
    }
    return " ".join(word for word, true in said.items() if true)
