"""Draw a learning curve over touches."""

from __future__ import annotations

from pathlib import Path

from annotate.learning_curve.results import CurveResult

_COLOURS = ("#4d4d4d", "#1f77b4", "#9467bd", "#17becf", "#d62728", "#ff7f0e")


def draw_curve(result: CurveResult, out: Path) -> None:
    """Draw the ratio to perfect labels over the touches, a line with intervals for each arm.

    Raises:
        OSError: nothing can be written there.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.axhline(1, color="0.6", linewidth=0.8)
    for number, arm in enumerate(result.arms):
        shift = 1.02 ** (number - (len(result.arms) - 1) / 2)  # intervals do not hide each other
        estimates = [result.ratio(arm, touches) for touches in result.touches]
        values = [each.value for each in estimates]
        intervals = [each.interval or (each.value, each.value) for each in estimates]
        below = [max(v - low, 0) for v, (low, _) in zip(values, intervals, strict=True)]
        above = [max(high - v, 0) for v, (_, high) in zip(values, intervals, strict=True)]
        axes.errorbar(
            [touches * shift for touches in result.touches],
            values,
            yerr=[below, above],
            color=_COLOURS[number % len(_COLOURS)],
            marker="o",
            markersize=4,
            capsize=2,
            linewidth=1.4,
            elinewidth=0.8,
            label=arm,
        )
    axes.set_xscale("log")
    axes.set_xlim(min(result.touches) / 1.3, max(result.touches) * 1.3)  # a single number as well
    axes.set_xticks(result.touches, labels=[f"{touches:,}" for touches in result.touches])
    axes.minorticks_off()
    axes.set(xlabel="touches of the person", ylabel="AP50 on gold over that of perfect labels")
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(out, format="png", dpi=110, metadata={"Software": None})
