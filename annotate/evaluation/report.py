"""Write the report of a comparison: tables, precision-recall curves and a sheet of frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from annotate.dataset.frame_sources import FrameKey, FrameSource
from annotate.evaluation.ground_truth import GroundTruth
from annotate.evaluation.metrics import ObjectsByFrame, filter_objects, sort_score
from annotate.evaluation.run_spec import RunSpec
from annotate.evaluation.scores import Comparison, RunScore
from annotate.files import atomic_file
from annotate.items.records import Frame, Item, Object, Picture
from annotate.viewing import fonts
from annotate.viewing.contact_sheet import (
    BACKGROUND,
    PALE_TEXT_COLOUR,
    TEXT_COLOUR,
    select_informative,
    truncate_text,
)
from annotate.viewing.crop_view import full_view
from annotate.viewing.overlay import draw_item

_GAP, _FONT_SIZE, _LINE_HEIGHT = 8, 15, 20  # pixels
FILES = ("table.csv", "table.md", "agreement.csv", "curves.png", "sheet.png")
_MAX_TITLE_LENGTH = 60  # letters of a title in the legend
_MAX_BOXES = 12  # boxes drawn in a cell: more would hide the picture
_MAX_CELL_WIDTH, _MIN_CELL_WIDTH, _ROW_WIDTH = 480, 200, 2400  # pixels


def write_report(
    comparison: Comparison, source: FrameSource, truth: GroundTruth | None, out: Path, rows: int = 8
) -> None:
    """Write the tables, `curves.png` and `sheet.png` into the folder `out`.

    Raises:
        OutputError: nothing can be written there.
    """
    write_tables(comparison, out)
    draw_curves(comparison, out / "curves.png")
    draw_sheet(comparison, source, truth, out / "sheet.png", rows)


def write_tables(comparison: Comparison, out: Path) -> None:
    """Write `table.csv`, `table.md` and `agreement.csv` into the folder `out`.

    `table.md` has the notes of the comparison below the table.

    Raises:
        OutputError: nothing can be written there.
    """
    columns, rows = comparison.formatted()
    lines = [columns, ["---"] * len(columns), *rows]
    cells = (" | ".join(cell.replace("|", "\\|") for cell in line) for line in lines)
    with atomic_file(out / "table.md") as draft:
        notes = "".join(f"\n* {note}" for note in comparison.notes)
        text = "".join(f"| {line} |\n" for line in cells) + (notes and notes + "\n")
        draft.write_text(text, encoding="utf-8")
    with atomic_file(out / "table.csv") as draft:
        comparison.table().to_csv(draft)
    with atomic_file(out / "agreement.csv") as draft:
        comparison.agreement_table().to_csv(draft, index=False)


def draw_curves(comparison: Comparison, out: Path) -> bool:
    """Draw precision against recall at IoU 0.5, a line for each run; return False without truth.

    A dot marks the threshold with the best F1, grey lines are of equal F1.

    Raises:
        OutputError: nothing can be written there.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scored = [each for each in comparison.scores if each.curve is not None]
    if not scored:
        return False
    figure = Figure(figsize=(7.5, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    _draw_f1_contours(axes)
    for index, each in enumerate(scored):
        width = 1.4 + 1.2 * (len(scored) - 1 - index)  # equal curves are all visible
        _draw_curve(axes, each, width)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
    axes.set_title("boxes against the truth at IoU 0.5")
    figure.legend(loc="outside lower left", frameon=False)
    with atomic_file(out) as draft:
        figure.savefig(draft, format="png", dpi=110, metadata={"Software": None})
    return True


def _draw_f1_contours(axes: Any) -> None:
    for f1 in (0.2, 0.4, 0.6, 0.8):
        recall = np.linspace(f1 / 2 + 1e-3, 1, 200)
        precision = f1 * recall / (2 * recall - f1)
        inside = precision <= 1
        axes.plot(recall[inside], precision[inside], color="0.85", linewidth=0.8)
        axes.annotate(f"F1 {f1}", (1, precision[-1]), color="0.6", fontsize=8, ha="right")


def _draw_curve(axes: Any, run_score: RunScore, width: float) -> None:
    assert run_score.curve is not None
    recall, precision = run_score.curve.recall, run_score.curve.precision
    title = (
        run_score.title
        if len(run_score.title) <= _MAX_TITLE_LENGTH
        else run_score.title[: _MAX_TITLE_LENGTH - 1] + "…"
    )
    name = f"{title}: AP {run_score.ap:.3f}, AP50 {run_score.ap50:.3f}"
    [line] = axes.plot(recall, precision, linewidth=width, label=name)
    if run_score.best_point is not None:
        axes.plot(
            run_score.best_point[1],
            run_score.best_point[0],
            "o",
            color=line.get_color(),
            markersize=5 + width,
        )


def draw_sheet(
    comparison: Comparison, source: FrameSource, truth: GroundTruth | None, out: Path, rows: int = 8
) -> bool:
    """Draw a row for each frame and a column for each run, the truth first; False if none ran.

    A cell shows the boxes from the run's best threshold on (without truth, from
    `comparison.min_score`), at most the twelve with the highest scores, on what the run sees of the
    frame. The frames are those with the most true objects; without truth, with the most boxes.
    A frame that the truth does not have, or that a run did not look at, is dark in that column.

    Raises:
        OutputError: nothing can be written there.
    """
    scored = [each for each in comparison.scores if not each.run.error]
    columns: dict[str, ObjectsByFrame] = {}
    labels = list(dict.fromkeys(name for each in scored for name in each.run.spec.labels))
    if truth is not None:
        frames = {key for each in scored for key in each.objects}
        objects_by_frame = filter_objects(truth.objects, labels)
        columns["truth"] = {key: objs for key, objs in objects_by_frame.items() if key in frames}
    columns |= {each.title: each.visible_objects(comparison.min_score) for each in scored}
    specs = {each.title: each.run.spec for each in scored}
    deciding = columns if truth is None else _truth_or_most_boxes(columns)
    chosen = _informative_frames(deciding, rows)
    if not scored or not chosen:
        return False
    width = min(_MAX_CELL_WIDTH, max(_MIN_CELL_WIDTH, _ROW_WIDTH // len(columns)))
    pictures = []
    for frame in source.frames_at(chosen):
        key = (frame.video, frame.index)
        row = [
            draw_cell(_as_seen(frame, specs.get(title)), each.get(key), labels, width)
            for title, each in columns.items()
        ]
        pictures.append((f"{frame.name} · {float(frame.seconds):.2f} s", row))
    with atomic_file(out) as draft:
        draw_grid(list(columns), pictures).save(draft, "PNG", compress_level=3)
    return True


def _truth_or_most_boxes(columns: Mapping[str, ObjectsByFrame]) -> dict[str, ObjectsByFrame]:
    """Take the objects of the truth, and on frames that it does not have, of the busiest run."""
    truth = columns["truth"]
    others = {key for each in columns.values() for key in each} - truth.keys()
    busiest = {
        key: max((each.get(key, ()) for each in columns.values()), key=len) for key in others
    }
    return {"truth": {**truth, **busiest}}


def _as_seen(frame: Frame, spec: RunSpec | None) -> Frame:
    """Return a frame as a run sees it: black where it is masked."""
    if spec is None or (spec.mask is None and spec.near is None):
        return frame
    from annotate.detectors.colour.filter import visible_frame

    return visible_frame(frame, spec.vocabulary, spec.mask, spec.near, spec.margin)


def _informative_frames(
    objects_by_title: Mapping[str, ObjectsByFrame], count: int
) -> list[FrameKey]:
    """Select the frames with the most objects, spread over the clip."""
    keys = sorted({key for each in objects_by_title.values() for key in each})
    items = []
    for index, key in enumerate(keys):
        objects = tuple(obj for each in objects_by_title.values() for obj in each.get(key, ()))
        items.append(Item(key[0], index, Fraction(0), 1, 1, objects))
    return [keys[item.frame] for item in select_informative(items, count)]


def draw_cell(
    frame: Frame, objects: Sequence[Object] | None, labels: Sequence[str], width: int
) -> Picture:
    """Draw objects on a frame, scaled to `width` pixels; a frame with None for objects is dark."""
    view = full_view(frame.size_wh, width)
    image = view.crop_image(frame.image)
    if objects is None:
        return np.asarray(image // 3, np.uint8)
    drawn = tuple(sorted(objects, key=lambda obj: -sort_score(obj))[:_MAX_BOXES])
    item = Item(frame.video, frame.index, frame.seconds, *frame.size_wh, drawn)
    return draw_item(image, view.crop_item(item), labels)


def draw_grid(
    headings: Sequence[str], rows: Sequence[tuple[str, Sequence[Picture]]]
) -> Image.Image:
    """Lay out pictures in rows, with headings above and a title below each row."""
    width = max(picture.shape[1] for _, row in rows for picture in row)
    heights = [max(picture.shape[0] for picture in row) for _, row in rows]
    size = (_GAP + len(headings) * (width + _GAP), 0)
    top = 2 * _GAP + _LINE_HEIGHT
    size = (size[0], top + sum(heights) + len(rows) * (_LINE_HEIGHT + _GAP))
    grid = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(grid)
    for column, heading in enumerate(headings):
        x = _GAP + column * (width + _GAP)
        shown = truncate_text(fonts.drawable(heading), width)
        draw.text((x, _GAP), shown, fill=TEXT_COLOUR, font=fonts.font(_FONT_SIZE, shown))
    for (title, row), height in zip(rows, heights, strict=True):
        for column, picture in enumerate(row):
            grid.paste(Image.fromarray(picture), (_GAP + column * (width + _GAP), top))
        shown, font = fonts.drawable(title), fonts.font(_FONT_SIZE - 2, title)
        draw.text((_GAP, top + height + 2), shown, fill=PALE_TEXT_COLOUR, font=font)
        top += height + _LINE_HEIGHT + _GAP
    return grid
