"""Variants against a reference on the same streams, several seeds each, as a table that grows while it runs."""

import math
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.lab.grades import Difference, difference, entropy
from benchmarks.lab.stream import Stream
from benchmarks.lab.training import Patch, Run, Settings, run
from ranker.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Variant:
    name: str
    model: ModelConfig
    tier: str
    """The graded one of the model's tiers, which all learn."""
    settings: Settings = field(default_factory=Settings)
    patch: Patch | None = None


@dataclass(frozen=True)
class Result:
    """Result of one variant; its lists have one entry for each seed."""

    variant: Variant
    entropies: list[float]
    differences: list[Difference]
    """To the reference, on the same stream; empty for the reference itself."""
    calibrations: list[float]
    """Mean prediction over mean click."""
    step_ms: float

    @property
    def mean(self) -> float:
        return statistics.fmean(self.entropies)

    @property
    def spread(self) -> float:
        """Standard deviation over seeds, of the differences where there is a reference."""
        values = [d.mean for d in self.differences] or self.entropies
        return statistics.stdev(values) if len(values) > 1 else float("nan")


HEADER = (
    f"{'variant':<34}{'NE':>8}{'- reference':>13}{'spread':>9}  {'95 % of each seed':<44}{'calib.':>7}{'step ms':>9}"
)


def cell(value: float, form: str) -> str:
    """The number in this form, or a dash as wide where there is none."""
    return f"{value:{form}}" if math.isfinite(value) else f"{'–':>{int(form.split('.')[0])}}"


def compare(
    variants: Sequence[Variant],
    streams: dict[int, Stream],
    *,
    chain: bool = False,
    prepare: Callable[[Variant, Stream], Stream] | None = None,
) -> list[Result]:
    """Prints and returns a row for each variant; the first is the reference of all, or each of the next (chain).

    streams: by seed, which is that of the initial weights too. prepare: what to make of a stream for a variant.
    """
    print(HEADER, flush=True)
    results: list[Result] = []
    reference: dict[int, Run] = {}
    for variant in variants:
        runs = {}
        for seed, stream in streams.items():
            own = stream if prepare is None else prepare(variant, stream)
            runs[seed] = run(own, variant.model, variant.settings, seed=seed, patch=variant.patch)[variant.tier]
        gaps = [] if not reference else [_difference(runs[seed], reference[seed]) for seed in streams]
        reference = runs if chain else reference or runs
        results.append(
            Result(
                variant,
                [entropy(r.click_n, r.p_n) for r in runs.values()],
                gaps,
                [float(r.p_n.mean() / r.click_n.mean()) for r in runs.values()],
                statistics.median(r.step_ms for r in runs.values()),
            )
        )
        print(row(results[-1]), flush=True)
    return results


def _difference(run: Run, reference: Run) -> Difference:
    """Compares on the impressions that both were graded on: the last ones."""
    n = min(len(run.p_n), len(reference.p_n))
    return difference(run.click_n[-n:], run.p_n[-n:], reference.p_n[-n:], reference.request_n[-n:])


def row(result: Result) -> str:
    gaps = [d.mean for d in result.differences]
    gap = f"{statistics.fmean(gaps):>+13.4f}" if gaps else f"{'reference':>13}"
    calibration = statistics.fmean(result.calibrations)
    each = " ".join(f"{d.mean:+.4f}±{d.half_width:.4f}" for d in result.differences)
    return (
        f"{result.variant.name:<34}{result.mean:>8.4f}{gap}{result.spread:>9.4f}  {each:<44}"
        f"{calibration:>7.3f}{result.step_ms:>9.1f}"
    )


def oracle(streams: dict[int, Stream], settings: Settings) -> str:
    """Normalized entropy of the truth on the graded parts, for each seed; says so where nobody knows it."""
    parts = []
    for stream in streams.values():
        begin = int(stream.requests * (1 - settings.graded)) // settings.batch * settings.batch
        graded = slice(int(stream.candidate_starts[begin]), None)
        if bool((stream.truth_N != stream.truth_N).any()):
            return "unknown"
        parts.append(f"{entropy(stream.click_N[graded], stream.truth_N[graded]):.4f}")
    return " ".join(parts)


def machine() -> str:
    """Where it was measured. Times are of processor, not of the clock: the machine may be shared."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    name = models[0].split(":", 1)[1].strip() if models else platform.machine()
    load = os.getloadavg()[0]
    return f"{name}, one thread of {os.cpu_count()}, torch {torch.__version__}, load {load:.0f}"
