"""The results of a curve: ratios to the detector of perfect labels, with intervals, and tables.

The ratio is that of AP50 on gold. Its interval is a paired bootstrap over the clips of gold: in
each resample, both detectors are measured on the same clips. Over several seeds, AP50 is averaged
before the ratio is taken.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from annotate.evaluation.gold.before_after import Estimate
from annotate.evaluation.gold.bootstrap import percentile_interval
from annotate.learning_curve.detector import Precision

PERFECT = "perfect"  # the name of the row of perfect labels
SHARES = (0.8, 0.9, 0.95)  # of perfect labels, to which touches are counted
COMPARISONS = (
    ("clicked", "drawn"),
    ("clicked-next", "clicked"),
    ("clicked-next", "drawn"),
    ("corrected", "drawn"),
    ("corrected-next", "corrected"),
    ("corrected-next", "corrected-random"),
    ("corrected", "corrected-random"),
)
_COUNTS = ("arm", "touches", "seed", "spent", "frames", "objects")
_COLUMNS = (*_COUNTS, "ap50", "ap", "ratio", "low", "high")


@dataclass(frozen=True)
class CurveRow:
    """A detector: of which arm and seed, with how many touches, and how good it is on gold.

    `touches` are those that the arm may spend, `spent` those that it did. `frames` and `objects`
    are what it was trained on.
    """

    arm: str
    touches: int
    seed: int
    spent: int
    frames: int
    objects: int
    precision: Precision


@dataclass(frozen=True)
class CurveResult:
    """All rows of a curve, and the row of perfect labels of each seed."""

    rows: Sequence[CurveRow]
    perfect: Mapping[int, CurveRow]
    clip_count: int  # of gold

    @property
    def arms(self) -> list[str]:
        """The arms, in their order."""
        return list(dict.fromkeys(row.arm for row in self.rows))

    @property
    def touches(self) -> list[int]:
        """The numbers of touches, ascending."""
        return sorted({row.touches for row in self.rows})

    def row_ratio(self, row: CurveRow) -> Estimate:
        """Compare a detector with that of perfect labels and the same seed."""
        return self._estimate(row.precision.ap50 / _safe(self.perfect[row.seed].precision.ap50))

    def ratio(self, arm: str, touches: int) -> Estimate:
        """Compare an arm with perfect labels, over all seeds."""
        perfect = np.mean([row.precision.ap50 for row in self.perfect.values()], axis=0)
        return self._estimate(self._mean(arm, touches) / _safe(perfect))

    def compare(self, arm: str, other: str, touches: int) -> Estimate:
        """Compare two arms that spent the same touches, over all seeds."""
        return self._estimate(self._mean(arm, touches) / _safe(self._mean(other, touches)))

    def touches_to(self, arm: str, share: float) -> float | None:
        """Return how many touches an arm takes to a share of perfect labels.

        Between two measured numbers of touches, the ratio is a line over the logarithm of touches.
        None: it was not reached.
        """
        last: tuple[int, float] | None = None
        for touches in self.touches:
            value = self.ratio(arm, touches).value
            if value >= share:
                if last is None:
                    return float(touches)
                part = (share - last[1]) / (value - last[1])
                return float(last[0] * (touches / last[0]) ** part)
            last = touches, value
        return None

    def _mean(self, arm: str, touches: int) -> npt.NDArray[np.float64]:
        values = [r.precision.ap50 for r in self.rows if (r.arm, r.touches) == (arm, touches)]
        return np.asarray(np.mean(values, axis=0))

    def _estimate(self, values: npt.NDArray[np.float64]) -> Estimate:
        return Estimate(float(values[0]), percentile_interval(values[1:], self.clip_count))

    def to_csv(self) -> str:
        """Format a row for each arm, number of touches and seed, after those of perfect labels."""
        text = io.StringIO()
        table = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
        table.writeheader()
        for row in (*self.perfect.values(), *self.rows):
            ratio = self.row_ratio(row)
            low, high = ratio.interval or ("", "")
            values: dict[str, Any] = {name: getattr(row, name) for name in _COUNTS}
            values |= {"ap50": row.precision.ap50[0], "ap": row.precision.ap[0]}
            values |= {"ratio": ratio.value, "low": low, "high": high}
            table.writerow(
                {k: f"{v:.4f}" if isinstance(v, float) else v for k, v in values.items()}
            )
        return text.getvalue()

    def ratio_rows(self) -> tuple[list[str], list[list[str]]]:
        """List the arms with their ratios to perfect labels: the columns, and the rows."""
        columns = ["arm", *map(str, self.touches), *(f"to {share:.0%}" for share in SHARES)]
        rows = []
        for arm in self.arms:
            ratios = [format_estimate(self.ratio(arm, touches)) for touches in self.touches]
            needed = [self.touches_to(arm, share) for share in SHARES]
            rows.append([arm, *ratios, *("-" if n is None else f"{n:.0f}" for n in needed)])
        return columns, rows

    def comparison_rows(self) -> tuple[list[str], list[list[str]]]:
        """List the ratios between arms at equal touches: the columns, and the rows."""
        columns = ["arms", *map(str, self.touches)]
        rows = [
            [f"{a} / {b}", *(format_estimate(self.compare(a, b, t)) for t in self.touches)]
            for a, b in COMPARISONS
            if {a, b} <= set(self.arms)
        ]
        return columns, rows

    def to_markdown(self) -> str:
        """Format both tables in Markdown."""
        parts = ["AP50 on gold over that of perfect labels, and the touches to a share of it:"]
        parts.append(_markdown(*self.ratio_rows()))
        columns, rows = self.comparison_rows()
        if rows:
            parts += ["AP50 of an arm over that of another, at equal touches:"]
            parts.append(_markdown(columns, rows))
        return "\n\n".join(parts) + "\n"


def format_estimate(estimate: Estimate) -> str:
    """Format a ratio with its interval, if it has one.

    Examples:
        >>> format_estimate(Estimate(0.9, (0.8, 1.0)))
        '0.90 (0.80 to 1.00)'
    """
    if np.isnan(estimate.value):
        return "-"
    text = f"{estimate.value:.2f}"
    if estimate.interval is not None:
        text += " ({:.2f} to {:.2f})".format(*estimate.interval)
    return text


def _safe(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Replace 0 by NaN: a ratio to it is not defined."""
    return np.where(values > 0, values, np.nan)


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
