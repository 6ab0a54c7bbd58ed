"""What a comparison looks like: precision-recall curves, and a sheet of frames by detectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from annotate import compare
from annotate.compare import Comparison, Judged
from annotate.drafts import new_file
from annotate.footage import Footage, Key
from annotate.matching import only, sureness
from annotate.paint import annotated, font
from annotate.records import Frame, Item, Object, Picture
from annotate.sheet import fitting, telling
from annotate.truth import Truth
from annotate.view import whole

_PAPER, _INK, _PALE = (17, 19, 24), (236, 239, 244), (150, 158, 172)
_GAP, _TEXT, _LINE = 8, 15, 20  # pixels
_TITLE = 60  # letters of a column's title in a legend
_MOST = 12  # boxes of a column on a frame: a flood hides the picture
_WIDEST, _NARROWEST, _ROOM = 480, 200, 2400  # pixels: a picture, and all of a row


def write(
    comparison: Comparison, seen: Footage, truth: Truth | None, out: Path, rows: int = 8
) -> None:
    """Write the tables of `compare.write`, `curves.png` and `sheet.png` into the folder `out`.

    Raises:
        OutputError: nothing can be written there.
    """
    compare.write(comparison, out)
    curves(comparison, out / "curves.png")
    sheet(comparison, seen, truth, out / "sheet.png", rows)


def curves(comparison: Comparison, out: Path) -> bool:
    """Draw precision against recall at IoU 0.5, a line a column; False where there is no truth.

    A dot marks the threshold with the best F1, grey lines are of equal F1.

    Raises:
        OutputError: nothing can be written there.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    judged = [each for each in comparison.judged if each.curve is not None]
    if not judged:
        return False
    figure = Figure(figsize=(7.5, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    _equal_f1(axes)
    for place, each in enumerate(judged):
        _line(axes, each, 1.4 + 1.2 * (len(judged) - 1 - place))  # lines that coincide are seen
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
    axes.set_title("boxes held against the truth at IoU 0.5")
    figure.legend(loc="outside lower left", frameon=False)
    with new_file(out) as draft:
        figure.savefig(draft, format="png", dpi=110, metadata={"Software": None})
    return True


def _equal_f1(axes: Any) -> None:
    for f1 in (0.2, 0.4, 0.6, 0.8):
        recall = np.linspace(f1 / 2 + 1e-3, 1, 200)
        precision = f1 * recall / (2 * recall - f1)
        inside = precision <= 1
        axes.plot(recall[inside], precision[inside], color="0.85", linewidth=0.8)
        axes.annotate(f"F1 {f1}", (1, precision[-1]), color="0.6", fontsize=8, ha="right")


def _line(axes: Any, judged: Judged, width: float) -> None:
    assert judged.curve is not None
    recall, precision = judged.curve.recall, judged.curve.precision
    title = judged.title if len(judged.title) <= _TITLE else judged.title[: _TITLE - 1] + "…"
    name = f"{title}: AP {judged.ap:.3f}, AP50 {judged.ap50:.3f}"
    [line] = axes.plot(recall, precision, linewidth=width, label=name)
    if judged.best is not None:
        axes.plot(judged.best[1], judged.best[0], "o", color=line.get_color(), markersize=5 + width)


def sheet(
    comparison: Comparison, seen: Footage, truth: Truth | None, out: Path, rows: int = 8
) -> bool:
    """Draw a row a frame and a column a detector, the truth first; False where none ran.

    Boxes are those at a column's best threshold; without truth, from `comparison.least` on. Of a
    flood the surest are drawn. Frames are those with most to find; without truth, most found.

    Raises:
        OutputError: nothing can be written there.
    """
    judged = [each for each in comparison.judged if not each.column.error]
    said: dict[str, Mapping[Key, Sequence[Object]]] = {}
    labels = list(dict.fromkeys(name for j in judged for name in j.column.entry.labels))
    if truth is not None:
        seen_by_one = {key for each in judged for key in each.found}
        there = only(truth.objects, labels)
        said["truth"] = {key: things for key, things in there.items() if key in seen_by_one}
    said |= {each.title: each.shown(comparison.least) for each in judged}
    chosen = _telling({"truth": said["truth"]} if truth is not None else said, rows)
    if not judged or not chosen:
        return False
    width = min(_WIDEST, max(_NARROWEST, _ROOM // len(said)))
    pictures = []
    for frame in seen.at(chosen):
        key = (frame.video, frame.index)
        row = [_cell(frame, each.get(key), labels, width) for each in said.values()]
        pictures.append((f"{frame.name} · {float(frame.seconds):.2f} s", row))
    with new_file(out) as draft:
        _grid(list(said), pictures).save(draft, "PNG", compress_level=3)
    return True


def _telling(said: Mapping[str, Mapping[Key, Sequence[Object]]], count: int) -> list[Key]:
    """Frames of all that is compared, spread over the clip, and those with most to see."""
    keys = sorted({key for each in said.values() for key in each})
    items = []
    for place, key in enumerate(keys):
        things = tuple(thing for each in said.values() for thing in each.get(key, ()))
        items.append(Item(key[0], place, Fraction(0), 1, 1, things))
    return [keys[item.frame] for item in telling(items, count)]


def _cell(
    frame: Frame, things: Sequence[Object] | None, labels: Sequence[str], width: int
) -> Picture:
    """The frame with these objects on it; dimmed where the column has not looked at it."""
    view = whole(frame.size_wh, width)
    image = view.of_image(frame.image)
    if things is None:
        return np.asarray(image // 3, np.uint8)
    surest = tuple(sorted(things, key=lambda thing: -sureness(thing))[:_MOST])
    item = Item(frame.video, frame.index, frame.seconds, *frame.size_wh, surest)
    return annotated(image, view.of_item(item), labels)


def _grid(headings: Sequence[str], rows: Sequence[tuple[str, Sequence[Picture]]]) -> Image.Image:
    """Pictures in rows, headings above them, and a line beneath each row."""
    width = max(picture.shape[1] for _, row in rows for picture in row)
    heights = [max(picture.shape[0] for picture in row) for _, row in rows]
    size = (_GAP + len(headings) * (width + _GAP), 0)
    top = 2 * _GAP + _LINE
    size = (size[0], top + sum(heights) + len(rows) * (_LINE + _GAP))
    grid = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(grid)
    for place, heading in enumerate(headings):
        x = _GAP + place * (width + _GAP)
        draw.text((x, _GAP), fitting(heading, width), fill=_INK, font=font(_TEXT))
    for (title, row), height in zip(rows, heights, strict=True):
        for place, picture in enumerate(row):
            grid.paste(Image.fromarray(picture), (_GAP + place * (width + _GAP), top))
        draw.text((_GAP, top + height + 2), title, fill=_PALE, font=font(_TEXT - 2))
        top += height + _LINE + _GAP
    return grid
