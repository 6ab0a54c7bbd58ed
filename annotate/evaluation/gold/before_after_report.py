"""Write a comparison on a gold set: `table.md`, a sheet of the worst frames, and the curves."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from annotate.dataset.frame_sources import FrameKey
from annotate.evaluation import report
from annotate.evaluation.gold.before_after import (
    TOO_FEW_CLIPS,
    BeforeAfter,
    ComparedMeasure,
    Estimate,
    ModelOnGold,
    objects_on_gold,
)
from annotate.evaluation.gold.bootstrap import MIN_CLIPS
from annotate.evaluation.metrics import filter_objects, match_boxes, precision_recall_curve
from annotate.files import atomic_file, write_text
from annotate.items.records import Frame, Object
from annotate.video.images import read_image

TABLE_FILE, SHEET_FILE, CURVE_FILE = "table.md", "sheet.png", "precision_recall.csv"
NOT_DEFINED = "-"
_CELL_WIDTH = 480  # pixels


def write_before_after(comparison: BeforeAfter, folder: Path, *, rows: int = 12) -> None:
    """Write `table.md`, `sheet.png` and `precision_recall.csv` into a folder that is there.

    `rows` is the number of frames on the sheet.

    Raises:
        OutputError: nothing can be written there.
    """
    write_text(folder / TABLE_FILE, table_text(comparison))
    write_text(folder / CURVE_FILE, _curves_text(comparison))
    _draw_sheet(comparison, folder / SHEET_FILE, rows)


def table_text(comparison: BeforeAfter) -> str:
    """Format the measures as a table of Markdown, with the conditions of the comparison below."""
    columns, rows = table_rows(comparison)
    lines = [columns, ["---"] * len(columns), *rows]
    notes = "".join(f"\n* {note}" for note in comparison_notes(comparison))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + notes + "\n"


def table_rows(comparison: BeforeAfter) -> tuple[list[str], list[list[str]]]:
    """Format the measures: the names of the columns, and the rows; a range is low to high."""
    columns = ["measure", "true objects"]
    columns += [] if comparison.before is None else ["before"]
    columns += ["after", "95 % interval"]
    columns += ["lowest to highest seed"] if len(comparison.after) > 1 else []
    columns += [] if comparison.before is None else ["difference", "95 % interval", ""]
    return columns, [_row(each, comparison) for each in comparison.measures]


def _row(row: ComparedMeasure, comparison: BeforeAfter) -> list[str]:
    cells = [row.name, str(row.truth_count)]
    cells += [] if row.before is None else [_number(row.before.value)]
    cells += [_number(row.after.value), _interval(row.after)]
    if len(comparison.after) > 1:
        cells.append(f"{_number(min(row.seeds))} to {_number(max(row.seeds))}")
    if row.difference is not None:
        value = row.difference.value
        shown = NOT_DEFINED if value != value else f"{value:+.3f}"
        cells += [shown, _interval(row.difference, "+"), row.verdict]
    return cells


def _number(value: float) -> str:
    return NOT_DEFINED if value != value else f"{value:.3f}"


def _interval(estimate: Estimate, sign: str = "") -> str:
    if estimate.interval is None:
        return NOT_DEFINED
    low, high = estimate.interval
    return f"{low:{sign}.3f} to {high:{sign}.3f}"


def comparison_notes(comparison: BeforeAfter) -> list[str]:
    """State on what the models were compared, at which thresholds, and how often gold was seen."""
    thresholds = [f"after {model.threshold:.3f}" for model in comparison.after[:1]]
    if comparison.before is not None:
        thresholds.insert(0, f"before {comparison.before.threshold:.3f}")
    times = "once" if comparison.looks == 1 else f"{comparison.looks} times"
    notes = [
        f"gold: {comparison.clip_count} clips, {comparison.frame_count} frames, "
        f"sha256 {comparison.gold.sha256[:12]}, looked at {times}",
        f"precision, recall and false boxes are from the threshold of each model on: "
        f"{', '.join(thresholds)}, chosen on the validation split",
    ]
    if comparison.clip_count < MIN_CLIPS:
        notes.append(f"no intervals: {TOO_FEW_CLIPS} (at least {MIN_CLIPS} are needed)")
    else:
        notes.append("intervals: bootstrap by clip, paired for the difference, 2,000 resamples")
    if len(comparison.after) > 1:
        notes.append(f"{len(comparison.after)} seeds; intervals are of the first, which is kept")
    return notes


def _curves_text(comparison: BeforeAfter) -> str:
    """Write precision and recall at IoU 0.5 by score, of each model and class, as CSV."""
    truth = _truth(comparison)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("model", "class", "score", "precision", "recall"))
    models = [*filter(None, [comparison.before]), *comparison.after[:1]]
    labels = comparison.gold.dataset.classes
    groups = {label: [label] for label in labels} if len(labels) > 1 else {}
    for name, model in zip(("before", "after")[-len(models) :], models, strict=True):
        objects = objects_on_gold(model, list(truth))
        for label, group in {"all": list(labels), **groups}.items():
            curve = precision_recall_curve(
                filter_objects(truth, group), filter_objects(objects, group)
            )
            for values in zip(curve.scores, curve.precision, curve.recall, strict=True):
                writer.writerow((name, label, *(f"{value:.6f}" for value in values)))
    return file.getvalue()


def _truth(comparison: BeforeAfter) -> dict[FrameKey, list[Object]]:
    return {(s.item.video, s.item.frame): list(s.item.objects) for s in comparison.gold.dataset}


def _draw_sheet(comparison: BeforeAfter, out: Path, rows: int) -> None:
    """Draw the frames with the most errors after training, worst first: truth, before, after."""
    truth = _truth(comparison)
    labels = comparison.gold.dataset.classes
    columns: dict[str, dict[FrameKey, list[Object]]] = {"truth": truth}
    if comparison.before is not None:
        columns["before"] = _visible(comparison.before, list(truth), labels)
    columns["after"] = _visible(comparison.after[0], list(truth), labels)
    errors = {
        name: {key: _error_count(objects[key], truth[key]) for key in truth}
        for name, objects in columns.items()
    }
    worst = sorted(
        truth, key=lambda key: (*(-each[key] for each in reversed(errors.values())), key)
    )
    drawn = {}
    chosen = set(worst[:rows])
    dataset = comparison.gold.dataset
    for sample in dataset:
        key = sample.item.video, sample.item.frame
        if key in chosen:
            pixels = read_image(dataset.images / sample.image)
            frame = Frame(*key, sample.item.seconds, pixels)
            cells = [report.draw_cell(frame, c[key], labels, _CELL_WIDTH) for c in columns.values()]
            drawn[key] = (_title(frame, key, errors), cells)
    with atomic_file(out) as draft:
        grid = report.draw_grid(list(columns), [drawn[key] for key in worst[:rows]])
        grid.save(draft, "PNG", compress_level=3)


def _visible(
    model: ModelOnGold, keys: Sequence[FrameKey], labels: Sequence[str]
) -> dict[FrameKey, list[Object]]:
    return filter_objects(objects_on_gold(model, keys), labels, model.threshold)


def _error_count(found: Sequence[Object], truth: Sequence[Object]) -> int:
    """Count the missed objects and the false boxes of a frame."""
    return len(found) + len(truth) - 2 * len(match_boxes(found, truth))


def _title(frame: Frame, key: FrameKey, errors: Mapping[str, Mapping[FrameKey, int]]) -> str:
    counts = [f"{each[key]} {name}" for name, each in errors.items() if name != "truth"]
    return f"{frame.name} · errors: {', '.join(counts)}"
