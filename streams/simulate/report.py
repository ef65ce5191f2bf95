"""What a simulated run measured: counts, latency, and the served predictions against the known truth."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ranker.arrays import F64
from ranker.grades import log_loss


def percentiles(values: list[float]) -> dict[str, float] | None:
    """p50, p90, p99 and max of milliseconds, by the nearest rank; None of nothing."""
    if not values:
        return None
    p50, p90, p99, most = np.percentile(values, [50, 90, 99, 100], method="inverted_cdf").tolist()
    return {"p50": round(p50, 2), "p90": round(p90, 2), "p99": round(p99, 2), "max": round(most, 2)}


@dataclass(slots=True)
class Tally:
    """What one phase counted. A response belongs to the phase of its request, an event to that of its page."""

    name: str
    rate: float
    seconds: float = 0.0
    requests: int = 0
    responses: dict[str, int] = field(default_factory=dict)
    """First responses by status."""
    late_sends: int = 0
    """Requests that left more than 10 ms after they were due: the load generator itself was slow."""
    latency_ms: list[float] = field(default_factory=list)
    """Latencies, from when a request was due to be sent until its first response was read."""
    events: dict[str, int] = field(default_factory=dict)
    """Events sent, by kind; a second sending counts as `repeated` instead, and one held back as `overtaken` as well."""
    candidates: int = 0
    predicted: int = 0
    """Shown places that had a prediction."""
    loss: float = 0.0
    oracle_loss: float = 0.0
    truth: float = 0.0
    """Sum of their true click probabilities."""
    value: float = 0.0
    """Sum of bid times true click probability over the pages shown."""
    best_value: float = 0.0
    """The same, had the best page been shown."""

    def count(self, kind: str, number: int = 1) -> None:
        self.events[kind] = self.events.get(kind, 0) + number

    def answer(self, status: str, latency_ms: float) -> None:
        self.responses[status] = self.responses.get(status, 0) + 1
        self.latency_ms.append(latency_ms)

    def grade(self, truth: F64, predicted: F64) -> None:
        """Adds the served click probabilities of shown places, beside the true ones."""
        self.predicted += len(truth)
        self.truth += float(truth.sum())
        self.loss += log_loss(truth, predicted)
        self.oracle_loss += log_loss(truth, truth)

    def summary(self) -> dict[str, Any]:
        """Returns the counts as JSON has them. Normalized entropy is expected log loss over that of the mean true
        probability (He et al. 2014), so 1 is what the best constant reaches and `ne_oracle` is what the truth itself
        reaches."""
        answered = sum(self.responses.values())
        out: dict[str, Any] = {
            "phase": self.name,
            "rate": self.rate,
            "seconds": round(self.seconds, 2),
            "requests": self.requests,
            "responses": answered,
            "by_status": dict(sorted(self.responses.items())),
            "unanswered": self.requests - answered,
            "late_sends": self.late_sends,
            "candidates_per_request": round(self.candidates / max(1, self.requests), 1),
            "latency_ms": percentiles(self.latency_ms),
            "events": dict(sorted(self.events.items())),
        }
        if self.predicted:
            mean = np.array([self.truth / self.predicted])
            base = log_loss(mean, mean) * self.predicted
            out |= {
                "true_ctr": round(float(mean[0]), 4),
                "ne_true": round(self.loss / base, 4),
                "ne_oracle": round(self.oracle_loss / base, 4),
            }
        if self.best_value > 0:
            out["value_of_best_page"] = round(self.value / self.best_value, 4)
        return out


@dataclass(frozen=True, slots=True)
class SimReport:
    """The phases in order, and the ids of all that was sent."""

    phases: list[Tally]
    answered_again: int
    """Responses to requests that had been answered before."""
    delivery_errors: int
    unsent_events: int
    """Events that would still have happened when the run ended."""
    correlation_per_minute: float
    """Correlation of click logits with those of a minute ago: how fast the world drifts."""
    request_ids: list[str]
    event_ids: list[str]

    @property
    def measured(self) -> Tally:
        """The last phase."""
        return self.phases[-1]

    def summary(self) -> dict[str, Any]:
        return {
            "measured": self.measured.summary(),
            "before": [tally.summary() for tally in self.phases[:-1]],
            "answered_again": self.answered_again,
            "delivery_errors": self.delivery_errors,
            "unsent_events": self.unsent_events,
            "click_logit_correlation_per_minute": round(self.correlation_per_minute, 3),
        }
