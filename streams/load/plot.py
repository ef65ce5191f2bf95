"""Latency against rate, and how it is distributed, as a picture. Needs matplotlib: the extra `plot`."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from streams.errors import StartError
from streams.load.measure import Row

TICKS = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99)
"""Percentiles that the distribution's axis names; it goes by how rare what lies beyond is, so tails are seen."""


def figure_module() -> ModuleType:
    """Raises StartError where matplotlib is not installed."""
    try:
        from matplotlib import figure
    except ImportError as error:
        raise StartError("--plot needs matplotlib; install it with: pip install 'tiderank[plot]'") from error
    return figure


def plot(rows: Sequence[Row], title: str, file: Path) -> None:
    """Writes a PNG: on the left p50 and p99 against the rate, on the right each rate's percentiles, log scales.

    Raises StartError where matplotlib is missing, OSError where the file cannot be written.
    """
    figure = figure_module().Figure(figsize=(12, 5), layout="constrained")
    against_rate, distribution = figure.subplots(1, 2)
    rows = sorted(rows, key=lambda row: row.rate)
    rates = [row.rate for row in rows]
    for percent, style in ((50, "o-"), (99, "s--")):
        values = [row.latency.percentile(percent) for row in rows]
        against_rate.plot(rates, values, style, label=f"p{percent}")
    against_rate.set(xlabel="requests a second, asked", ylabel="ms, due to read", yscale="log")
    for row in rows:
        # Only percentiles that at least one value lies beyond: 100 values have no 99.9th.
        known = [percent for percent in _steps() if _rarity(percent) <= row.latency.count]
        latencies = [row.latency.percentile(percent) for percent in known]
        distribution.plot([_rarity(percent) for percent in known], latencies, label=f"{row.rate:g}/s")
    distribution.set(xlabel="percentile", ylabel="ms, due to read", xscale="log", yscale="log")
    distribution.set_xticks([_rarity(percent) for percent in TICKS], [f"{percent:g}" for percent in TICKS])
    distribution.set_xlim(0.9, max(row.latency.count for row in rows))
    for axes in (against_rate, distribution):
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.grid(visible=True, which="both", alpha=0.3)
        axes.legend()
    figure.suptitle(title, fontsize=9)
    figure.savefig(file, format="png", dpi=120)


def _rarity(percent: float) -> float:
    """One of so many lies beyond that percentile."""
    return 100 / (100 - percent)


def _steps() -> list[float]:
    """Percentiles evenly apart on the axis: 20 for every factor of ten."""
    return [100 * (1 - 10 ** (-step / 20)) for step in range(81)]
