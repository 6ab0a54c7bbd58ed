"""Compare detectors: a table of scores, resources and agreement, curves and a sheet."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from annotate.dataset.frame_sources import FrameKey, FrameSource
from annotate.errors import OutputError, UnknownName
from annotate.evaluation import metrics
from annotate.evaluation.ground_truth import GroundTruth
from annotate.evaluation.metrics import filter_objects, sort_score
from annotate.evaluation.runs import Run
from annotate.files import atomic_file
from annotate.items.records import Frame, Item, Object, Picture, Vocabulary
from annotate.viewing.contact_sheet import select_informative, truncate_text
from annotate.viewing.crop_view import full_view
from annotate.viewing.overlay import draw_item, font

if TYPE_CHECKING:
    import pandas as pd


_BACKGROUND, _TEXT_COLOUR, _MUTED_COLOUR = (17, 19, 24), (236, 239, 244), (150, 158, 172)
_GAP, _FONT_SIZE, _LINE_HEIGHT = 8, 15, 20  # pixels
_MAX_TITLE_LENGTH = 60  # letters of a column's title in a legend
_MAX_BOXES = 12  # boxes of a column on a frame: a flood hides the picture
_MAX_CELL_WIDTH, _MIN_CELL_WIDTH, _ROW_WIDTH = 480, 200, 2400  # pixels: a picture, and all of a row


def write_report(
    comparison: Comparison, source: FrameSource, truth: GroundTruth | None, out: Path, rows: int = 8
) -> None:
    """Write the tables of `compare.write`, `curves.png` and `sheet.png` into the folder `out`.

    Raises:
        OutputError: nothing can be written there.
    """
    write_tables(comparison, out)
    draw_curves(comparison, out / "curves.png")
    draw_sheet(comparison, source, truth, out / "sheet.png", rows)


def draw_curves(comparison: Comparison, out: Path) -> bool:
    """Draw precision against recall at IoU 0.5, a line a column; False where there is no truth.

    A dot marks the threshold with the best F1, grey lines are of equal F1.

    Raises:
        OutputError: nothing can be written there.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    judged = [each for each in comparison.scores if each.curve is not None]
    if not judged:
        return False
    figure = Figure(figsize=(7.5, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    _draw_f1_contours(axes)
    for place, each in enumerate(judged):
        _draw_curve(
            axes, each, 1.4 + 1.2 * (len(judged) - 1 - place)
        )  # lines that coincide are seen
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
    axes.set_title("boxes held against the truth at IoU 0.5")
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
    """Draw a row a frame and a column a detector, the truth first; False where none ran.

    Boxes are those at a column's best threshold; without truth, from `comparison.least` on. Of a
    flood the surest are drawn. Frames are those with most to find; without truth, most found.

    Raises:
        OutputError: nothing can be written there.
    """
    judged = [each for each in comparison.scores if not each.run.error]
    said: dict[str, Mapping[FrameKey, Sequence[Object]]] = {}
    labels = list(dict.fromkeys(name for j in judged for name in j.run.spec.labels))
    if truth is not None:
        seen_by_one = {key for each in judged for key in each.objects}
        there = filter_objects(truth.objects, labels)
        said["truth"] = {key: things for key, things in there.items() if key in seen_by_one}
    said |= {each.title: each.visible_objects(comparison.min_score) for each in judged}
    chosen = _informative_frames({"truth": said["truth"]} if truth is not None else said, rows)
    if not judged or not chosen:
        return False
    width = min(_MAX_CELL_WIDTH, max(_MIN_CELL_WIDTH, _ROW_WIDTH // len(said)))
    pictures = []
    for frame in source.frames_at(chosen):
        key = (frame.video, frame.index)
        row = [_cell(frame, each.get(key), labels, width) for each in said.values()]
        pictures.append((f"{frame.name} · {float(frame.seconds):.2f} s", row))
    with atomic_file(out) as draft:
        _draw_grid(list(said), pictures).save(draft, "PNG", compress_level=3)
    return True


def _informative_frames(
    objects_by_title: Mapping[str, Mapping[FrameKey, Sequence[Object]]], count: int
) -> list[FrameKey]:
    """Frames of all that is compared, spread over the clip, and those with most to see."""
    keys = sorted({key for each in objects_by_title.values() for key in each})
    items = []
    for place, key in enumerate(keys):
        things = tuple(thing for each in objects_by_title.values() for thing in each.get(key, ()))
        items.append(Item(key[0], place, Fraction(0), 1, 1, things))
    return [keys[item.frame] for item in select_informative(items, count)]


def _cell(
    frame: Frame, objects: Sequence[Object] | None, labels: Sequence[str], width: int
) -> Picture:
    """The frame with these objects on it; dimmed where the column has not looked at it."""
    view = full_view(frame.size_wh, width)
    image = view.crop_image(frame.image)
    if objects is None:
        return np.asarray(image // 3, np.uint8)
    surest = tuple(sorted(objects, key=lambda thing: -sort_score(thing))[:_MAX_BOXES])
    item = Item(frame.video, frame.index, frame.seconds, *frame.size_wh, surest)
    return draw_item(image, view.crop_item(item), labels)


def _draw_grid(
    headings: Sequence[str], rows: Sequence[tuple[str, Sequence[Picture]]]
) -> Image.Image:
    """Pictures in rows, headings above them, and a line beneath each row."""
    width = max(picture.shape[1] for _, row in rows for picture in row)
    heights = [max(picture.shape[0] for picture in row) for _, row in rows]
    size = (_GAP + len(headings) * (width + _GAP), 0)
    top = 2 * _GAP + _LINE_HEIGHT
    size = (size[0], top + sum(heights) + len(rows) * (_LINE_HEIGHT + _GAP))
    grid = Image.new("RGB", size, _BACKGROUND)
    draw = ImageDraw.Draw(grid)
    for place, heading in enumerate(headings):
        x = _GAP + place * (width + _GAP)
        draw.text(
            (x, _GAP), truncate_text(heading, width), fill=_TEXT_COLOUR, font=font(_FONT_SIZE)
        )
    for (title, row), height in zip(rows, heights, strict=True):
        for place, picture in enumerate(row):
            grid.paste(Image.fromarray(picture), (_GAP + place * (width + _GAP), top))
        draw.text((_GAP, top + height + 2), title, fill=_MUTED_COLOUR, font=font(_FONT_SIZE - 2))
        top += height + _LINE_HEIGHT + _GAP
    return grid


NOT_MEASURED = "not measured"
_MIB = 1 << 20
_COLUMN_FORMATS = {  # column of the table -> how a number of it is written
    "AP": "{:.3f}",
    "AP50": "{:.3f}",
    "precision": "{:.3f}",
    "recall": "{:.3f}",
    "at score": "{:.3f}",
    "boxes/frame": "{:.2f}",
    "agreement F1": "{:.3f}",
    "agreement IoU": "{:.3f}",
    "ms/frame": "{:.1f}",
    "first batch s": "{:.2f}",
    "memory MiB": "{:,.0f}",
    "GPU MiB": "{:,.0f}",
    "weights MiB": "{:,.1f}",
    "cost/1000 frames": "{:.2f}",
    "cost/right box": "{:.4f}",
}


def truth_vocabulary(truth: GroundTruth | None, detectors: Sequence[str]) -> Vocabulary:
    """The classes of the truth, each called by its name: what to look for where nobody says.

    Raises:
        OutputError: there is no truth either.
    """
    if truth is None:
        raise OutputError("what is to be looked for? give a vocabulary, -v, or the truth, --truth")
    named = {label: dict.fromkeys(detectors, label) for label in truth.labels}
    digest = hashlib.sha256(repr(truth.labels).encode()).hexdigest()
    return Vocabulary("classes of the truth", named, digest)


def check_classes(truth: GroundTruth | None, vocabulary: Vocabulary) -> None:
    """Refuse truth that has none of the vocabulary's classes.

    Raises:
        UnknownName: names the nearest.
    """
    if truth is not None and not set(truth.labels) & set(vocabulary.labels):
        raise UnknownName("class in the truth", vocabulary.labels[0], truth.labels)


@dataclass(frozen=True)
class RunScore:
    """A column, held against the truth where there is any; NaN is: not measured.

    `found` are the objects of its classes on each frame. `curve` is None without truth.
    """

    run: Run
    objects: Mapping[FrameKey, Sequence[Object]]
    curve: metrics.PrecisionRecallCurve | None = None
    ap: float = float("nan")
    ap50: float = float("nan")

    @property
    def title(self) -> str:
        """What heads it."""
        return self.run.spec.title

    @cached_property
    def best_point(self) -> tuple[float, float, float] | None:
        """Precision, recall and score at the threshold with the best F1."""
        if self.curve is None or self.curve.best_index is None:
            return None
        place = self.curve.best_index
        return tuple(float(each[place]) for each in self._curve_arrays)  # type: ignore[return-value]

    @property
    def _curve_arrays(self) -> tuple[metrics.FloatArray, ...]:
        assert self.curve is not None
        return self.curve.precision, self.curve.recall, self.curve.scores

    def visible_objects(self, min_score: float) -> dict[FrameKey, list[Object]]:
        """What it says at its best threshold; without truth, from `least` on."""
        floor = min_score if self.best_point is None else max(self.best_point[2], 0.0)
        return metrics.filter_objects(self.objects, self.run.spec.labels, floor)


def score_run(run: Run, truth: GroundTruth | None) -> RunScore:
    """Hold a column against what is true of the frames that it looked at."""
    found = metrics.filter_objects(run.objects, run.spec.labels)
    if truth is None or run.error:
        return RunScore(run, found)
    labels = [label for label in run.spec.labels if label in truth.labels]
    keys = found.keys() & truth.objects.keys()
    real = metrics.filter_objects({key: truth.objects[key] for key in sorted(keys)}, labels)
    given = metrics.filter_objects(found, labels)
    if not any(real.values()):
        return RunScore(run, found)
    ap, ap50 = metrics.average_precision(real, given, labels)
    return RunScore(run, found, metrics.precision_recall_curve(real, given), ap, ap50)


@dataclass(frozen=True)
class Comparison:
    """All columns; `least` is the score from which on boxes are counted where no truth tells."""

    scores: Sequence[RunScore]
    min_score: float = 0.0

    @cached_property
    def pair_agreements(self) -> dict[tuple[str, str], metrics.Agreement]:
        """How far each two columns that reached their end agree, boxes below `least` left out."""
        said = {
            each.title: self._objects_above_min_score(each)
            for each in self.scores
            if not each.run.error
        }
        return {(a, b): metrics.agreement(said[a], said[b]) for a, b in combinations(said, 2)}

    def _objects_above_min_score(self, run_score: RunScore) -> dict[FrameKey, list[Object]]:
        return metrics.filter_objects(run_score.objects, run_score.run.spec.labels, self.min_score)

    def table(self) -> pd.DataFrame:
        """A row for each column; numbers, NaN where not measured, and a remark."""
        import pandas as pd

        rows = [self._row(judged) for judged in self.scores]
        titles = pd.Index([judged.title for judged in self.scores], name="detector")
        return pd.DataFrame(rows, titles, [*_COLUMN_FORMATS, "remark"])

    def _row(self, run_score: RunScore) -> dict[str, Any]:
        if run_score.run.error:
            return {"remark": f"failed: {run_score.run.error}"}
        took = run_score.run.measurements
        row: dict[str, Any] = {
            "AP": run_score.ap,
            "AP50": run_score.ap50,
            "remark": self._remark(run_score),
        }
        if run_score.best_point is not None:
            precision, recall, score = run_score.best_point
            row |= {"precision": precision, "recall": recall}
            row |= {"at score": score} if score >= 0 else {}
        elif run_score.curve is not None:
            row |= {"precision": 0.0, "recall": 0.0}
        said = self._objects_above_min_score(run_score).values()
        row["boxes/frame"] = sum(map(len, said)) / len(said) if said else None
        row |= self._mean_agreement(run_score.title)
        row |= {"ms/frame": _scaled(took.seconds, 1000), "first batch s": took.first_seconds}
        row |= {"memory MiB": _scaled(took.memory, 1 / _MIB)}
        row |= {"GPU MiB": _scaled(took.gpu_memory, 1 / _MIB)}
        row |= {"weights MiB": _scaled(took.weights, 1 / _MIB)}
        return (
            row
            | {"cost/1000 frames": _scaled(took.money_per_frame, 1000)}
            | _cost_per_correct_box(run_score)
        )

    def _mean_agreement(self, title: str) -> dict[str, float]:
        mine = [pair for titles, pair in self.pair_agreements.items() if title in titles]
        pairs = {"agreement F1": [p.f1 for p in mine], "agreement IoU": [p.iou for p in mine]}
        known = {name: [v for v in values if v == v] for name, values in pairs.items()}
        return {name: float(np.mean(values)) for name, values in known.items() if values}

    def _remark(self, run_score: RunScore) -> str:
        things = [thing for each in run_score.objects.values() for thing in each]
        if not things:
            return "found nothing"
        return "gives no scores" if all(thing.score is None for thing in things) else ""

    def formatted(self, excluded: Sequence[str] = ()) -> tuple[list[str], list[list[str]]]:
        """The table as texts: its columns, and its rows; some columns may be left out."""
        table = self.table().drop(columns=list(excluded))
        rows = [
            [str(title), *(_format_value(str(name), value) for name, value in row.items())]
            for title, row in zip(table.index, table.to_dict("records"), strict=True)
        ]
        return ["detector", *map(str, table.columns)], rows

    def unmeasured_columns(self) -> list[str]:
        """The columns of the table in which nothing was measured."""
        table = self.table()
        return [name for name in _COLUMN_FORMATS if table[name].isna().all()]

    def agreement_table(self) -> pd.DataFrame:
        """A row for each pair of columns."""
        import pandas as pd

        rows = [(*titles, pair.f1, pair.iou) for titles, pair in self.pair_agreements.items()]
        return pd.DataFrame(rows, columns=["detector", "other", "F1", "IoU"])


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _cost_per_correct_box(run_score: RunScore) -> dict[str, float]:
    """Money for each box that the truth confirms, at the best threshold."""
    paid, curve = run_score.run.measurements.money_per_frame, run_score.curve
    if paid is None or curve is None or run_score.best_point is None:
        return {}
    right = run_score.best_point[1] * curve.truth_count
    return {"cost/right box": paid * len(run_score.objects) / right}


def _format_value(name: str, value: Any) -> str:
    if name not in _COLUMN_FORMATS:
        return str(value)
    return NOT_MEASURED if value is None or value != value else _COLUMN_FORMATS[name].format(value)


def write_tables(comparison: Comparison, out: Path) -> None:
    """Write `table.csv`, `table.md` and `agreement.csv` into the folder `out`.

    Raises:
        OutputError: nothing can be written there.
    """
    columns, rows = comparison.formatted()
    lines = [columns, ["---"] * len(columns), *rows]
    cells = (" | ".join(cell.replace("|", "\\|") for cell in line) for line in lines)
    with atomic_file(out / "table.md") as draft:
        draft.write_text("".join(f"| {line} |\n" for line in cells), encoding="utf-8")
    with atomic_file(out / "table.csv") as draft:
        comparison.table().to_csv(draft)
    with atomic_file(out / "agreement.csv") as draft:
        comparison.agreement_table().to_csv(draft, index=False)
