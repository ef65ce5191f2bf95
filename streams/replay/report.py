"""What a replay showed: what became of every event, and how good the served predictions were beside the baselines."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from ranker.arrays import F64
from ranker.config import ModelConfig
from streams.audit import AuditReport
from streams.datasets.logs.traffic import LoggedImpression
from streams.replay.baselines import BaseRate, RunningMeans, Schedule, progressive
from streams.replay.driver import Sent
from streams.replay.graded import Graded, as_the_model, at_its_time
from streams.replay.metrics import Interval, auc_difference, auc_interval, normalized_entropies
from streams.replay.rivals import boosted_trees, vowpal_wabbit

RESAMPLES = 1000
Baseline = Callable[[Sequence[LoggedImpression], Schedule, ModelConfig], F64]
BASELINES: Mapping[str, Baseline] = MappingProxyType(
    {
        "user and item means": lambda rows, schedule, model: progressive(RunningMeans(), rows, schedule),
        "Vowpal Wabbit with crosses": lambda rows, schedule, model: vowpal_wabbit(rows, schedule),
        "boosted trees on counts": boosted_trees,
        "base rate": lambda rows, schedule, model: progressive(BaseRate(), rows, schedule),
    }
)
AS_THE_MODEL = ", as late as the model"
"""Behind the name of a baseline that had learned a label where the model that served had."""


@dataclass(frozen=True, slots=True)
class Score:
    """How good one predictor is: the higher the AUC and the lower the normalized entropy, the better."""

    auc: Interval
    normalized_entropy: Interval


@dataclass(frozen=True, slots=True)
class Comparison:
    """The model's value minus the baseline's, paired."""

    auc: Interval
    normalized_entropy: Interval

    def verdicts(self) -> dict[str, str]:
        """`better`, `worse`, or that these data do not tell."""
        return {
            "auc": _verdict(self.auc, higher_is_better=True),
            "normalized_entropy": _verdict(self.normalized_entropy, higher_is_better=False),
        }


@dataclass(frozen=True, slots=True)
class Grades:
    examples: int
    clicks: int
    users: int
    lag: tuple[int, int]
    """Median and 95th percentile of how many of the impressions before one the model that scored it had not learned."""
    lag_of_labels: tuple[int, int]
    """The same of labels whose time was not over."""
    left_out: tuple[str, ...]
    """Baselines whose package is not installed."""
    scores: dict[str, Score]
    comparisons: dict[str, Comparison]


@dataclass(frozen=True, slots=True)
class ReplayReport:
    log: str
    notes: str
    sent: Sent
    joined: int
    joined_clicks: int
    repeated: int
    unlearned: int
    updates: int
    shift_ms: int
    audit: AuditReport
    """Audit of everything on the broker, by id: what was stored, joined, learned, lost or doubled."""
    grades: Grades | None
    why_no_grades: str = ""
    examples: Sequence[Graded] = ()
    """Every click example that was graded, in the order of the log."""

    def as_dict(self) -> dict[str, Any]:
        out: dict[str, Any] = {
            "log": self.log,
            "sent": {
                "requests": self.sent.requests,
                "impressions": self.sent.impressions,
                "clicks": self.sent.clicks,
                "shifted_by_days": self.shift_ms // (24 * 3_600_000),
            },
            "answered": dict(sorted(self.sent.responses.items())),
            "joined": {"click_examples": self.joined, "clicked": self.joined_clicks, "repeated": self.repeated},
            "learned": {"updates": self.updates, "examples_not_learned": self.unlearned},
            "seconds": round(self.sent.seconds, 1),
            "requests_per_second": round(self.sent.requests / max(self.sent.seconds, 1e-9), 1),
        }
        out["audit"] = self.audit.as_dict()
        if self.grades is None:
            return out | {"no_grades": self.why_no_grades}
        return out | {
            "lag": {"median": self.grades.lag[0], "p95": self.grades.lag[1]},
            "lag_of_labels": {"median": self.grades.lag_of_labels[0], "p95": self.grades.lag_of_labels[1]},
            "baselines_left_out": list(self.grades.left_out),
            "scores": {name: _numbers(score) for name, score in self.grades.scores.items()},
            "model_minus": {
                name: _numbers(compared) | {"verdict": compared.verdicts()}
                for name, compared in self.grades.comparisons.items()
            },
        }

    def text(self) -> str:
        sent, answered = self.sent, ", ".join(f"{n} {status}" for status, n in sorted(self.sent.responses.items()))
        lines = [
            f"log       {self.log}",
            f"sent      {sent.requests} requests, {sent.impressions} impressions, {sent.clicks} clicks "
            f"in {sent.seconds:.1f} s",
            f"answered  {answered}",
            f"joined    {self.joined} of {sent.with_prediction} click examples, {self.joined_clicks} of them clicked; "
            f"{self.repeated} came again",
            f"learned   in {self.updates} updates; {self.unlearned} examples are not learned",
        ]
        if self.shift_ms:
            lines.append(
                f"times     moved by {self.shift_ms // (24 * 3_600_000)} days, so that all windows close today"
            )
        if self.notes:
            lines.append(f"note      {self.notes}")
        grades = _table(self.grades) if self.grades else [self.why_no_grades]
        return "\n".join([*lines, "", self.audit.text(), "", *grades])


def grade(examples: Sequence[Graded], rows: Sequence[LoggedImpression], model: ModelConfig) -> Grades:
    """Progressive validation: each prediction was made before its label was known, by model and baselines alike.

    examples: in the order of their requests. rows: the impression of each.
    Raises ValueError where there are not two clicks and two others.
    """
    labels: F64 = np.array([e.label for e in examples], dtype=np.float64)
    predicted = {"model": np.array([e.predicted for e in examples], dtype=np.float64)}
    aucs = {"model": auc_interval(labels, predicted["model"])}  # first: it refuses what nothing can be said of
    own, late = at_its_time(examples), as_the_model(examples)
    left_out = []
    for name, baseline in BASELINES.items():
        try:
            predicted[name] = baseline(rows, own, model)
            predicted[name + AS_THE_MODEL] = baseline(rows, late, model)
        except ImportError as missing:
            left_out.append(f"{name} ({missing})")
    users, clusters = np.unique([row.user for row in rows], return_inverse=True)
    aucs |= {name: auc_interval(labels, p_n) for name, p_n in predicted.items()}
    entropies = normalized_entropies(
        labels, np.stack(list(predicted.values())), clusters.astype(np.int64), resamples=RESAMPLES
    )
    return Grades(
        examples=len(examples),
        clicks=int(labels.sum()),
        users=len(users),
        lag=_median_and_p95(late),
        lag_of_labels=_median_and_p95(own),
        left_out=tuple(left_out),
        scores={name: Score(aucs[name], entropies.interval(k)) for k, name in enumerate(predicted)},
        comparisons={
            name: Comparison(
                auc_difference(labels, predicted["model"], p_n), entropies.difference(0, list(predicted).index(name))
            )
            for name, p_n in predicted.items()
            if name != "model"
        },
    )


def _median_and_p95(schedule: Schedule) -> tuple[int, int]:
    median, p95 = np.quantile(schedule.lag_n, [0.5, 0.95], method="inverted_cdf")
    return int(median), int(p95)


def _table(grades: Grades) -> list[str]:
    width = 2 + max(map(len, ["model - " + name for name in grades.comparisons]))
    lines = [
        f"{grades.examples} examples, {grades.clicks} clicks, {grades.users} users. 95 % intervals: AUC by DeLong "
        "(examples taken as independent),",
        f"normalized entropy by {RESAMPLES} bootstrap resamples of whole users. Baselines learn a label when its time "
        "has come; as late as",
        "the model: once the model that served had learned it.",
        "Not learned of the impressions before one: "
        f"{grades.lag[0]} by the model (median; p95 {grades.lag[1]}), "
        f"and of {grades.lag_of_labels[0]} ({grades.lag_of_labels[1]}) the time was not over.",
        *(f"left out: {name}" for name in grades.left_out),
        f"{'':{width}} {'AUC':28} normalized entropy",
        *(f"{name:{width}} {score.auc!s:28} {score.normalized_entropy}" for name, score in grades.scores.items()),
    ]
    for name, compared in grades.comparisons.items():
        lines.append(f"{'model - ' + name:{width}} {compared.auc!s:28} {compared.normalized_entropy}")
        lines.append(f"{'':{width}} {'; '.join(f'{metric}: {v}' for metric, v in compared.verdicts().items())}")
    return lines


def _verdict(difference: Interval, *, higher_is_better: bool) -> str:
    if not difference.excludes_zero:
        return "no verdict (the interval holds 0)"
    return "better" if (difference.value > 0) == higher_is_better else "worse"


def _numbers(pair: Score | Comparison) -> dict[str, Any]:
    def rounded(interval: Interval) -> list[float]:
        return [round(x, 5) for x in (interval.value, interval.low, interval.high)]

    return {"auc": rounded(pair.auc), "normalized_entropy": rounded(pair.normalized_entropy)}
