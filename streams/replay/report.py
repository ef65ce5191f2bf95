"""What a replay showed: what became of every event, and how good the served predictions were beside the baselines."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from ranker.arrays import F64
from ranker.config import ModelConfig
from streams.audit import AuditReport
from streams.config.recipe import Recipe
from streams.datasets.logs.traffic import LoggedImpression
from streams.replay.baselines import BaseRate, RunningMeans, Schedule, progressive
from streams.replay.counting_rival import vowpal_wabbit_with_counts
from streams.replay.driver import Sent
from streams.replay.graded import Graded, as_the_model, at_its_time
from streams.replay.house import Known
from streams.replay.metrics import Interval, auc_difference, auc_interval, normalized_entropies
from streams.replay.rivals import boosted_trees, vowpal_wabbit

RESAMPLES = 1000
Baseline = Callable[[Sequence[LoggedImpression], Schedule, ModelConfig], F64]
BASELINES: Mapping[str, Baseline] = MappingProxyType(
    {
        "user and item means": lambda rows, schedule, m: progressive(RunningMeans(m.click_prior), rows, schedule),
        "Vowpal Wabbit with crosses": vowpal_wabbit,
        "Vowpal Wabbit with the log's counts": vowpal_wabbit_with_counts,
        "boosted trees on counts": boosted_trees,
        "base rate": lambda rows, schedule, m: progressive(BaseRate(m.click_prior), rows, schedule),
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
    recipe: Recipe
    """What was judged."""
    left_aside: Sequence[str]
    """Names of what the rows give and the recipe has no slot for."""
    known: Known | None
    """What the house had before; None: it was new."""
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

    @property
    def ok(self) -> bool:
        """Whether nothing was lost or doubled, and there is something to judge by."""
        return self.audit.ok and self.grades is not None

    @property
    def tiers(self) -> list[str]:
        """Names of the tiers that the recipe's plans have, each once."""
        plans = self.recipe.routing
        cascaded = (tier for cascade in plans.cascades for tier in (cascade.first, cascade.then))
        return list(dict.fromkeys([*plans.tiers, *cascaded]))

    def as_dict(self) -> dict[str, Any]:
        out: dict[str, Any] = {
            "log": self.log,
            "ok": self.ok,
            "model": self._model(),
            "known_before": None if self.known is None else asdict(self.known),
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
            "best_rival": best_rival(self.grades),
            "best_prompt_rival": best_rival(self.grades, late=False),
            "baselines_left_out": list(self.grades.left_out),
            "scores": {name: _numbers(score) for name, score in self.grades.scores.items()},
            "model_minus": {
                name: _numbers(compared) | {"verdict": compared.verdicts()}
                for name, compared in self.grades.comparisons.items()
            },
        }

    def _model(self) -> dict[str, Any]:
        model = self.recipe.model
        return {
            "recipe": self.recipe.name,
            "digest": model.digest,
            "tiers": {name: {"log_length": model.tier(name).log_length} for name in self.tiers},
            "evidence": list(model.evidence),
            "crosses": [list(cross) for cross in model.crosses],
            "statistics": [list(statistic) for statistic in model.statistics],
            "left_aside": list(self.left_aside),
        }


def best_rival(grades: Grades, *, late: bool = True) -> str:
    """Name of the baseline of the least normalized entropy, among those that learn as late as the model.

    late: False: among those that learn each label as soon as its time is over.
    """
    names = [name for name in grades.comparisons if name.endswith(AS_THE_MODEL) is late]
    return min(names, key=lambda name: grades.scores[name].normalized_entropy.value)


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


def _verdict(difference: Interval, *, higher_is_better: bool) -> str:
    if not difference.excludes_zero:
        return "no difference shown"
    return "better" if (difference.value > 0) == higher_is_better else "worse"


def _numbers(pair: Score | Comparison) -> dict[str, Any]:
    def rounded(interval: Interval) -> list[float]:
        return [round(x, 5) for x in (interval.value, interval.low, interval.high)]

    return {"auc": rounded(pair.auc), "normalized_entropy": rounded(pair.normalized_entropy)}
