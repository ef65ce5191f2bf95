"""All that the view shows, as plain values: what is counted, and the last minute of it, second by second."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal

from streams.demo.entropy import Entropies, entropies
from streams.demo.observer import LogSize, Observer, Part
from streams.freshness.meter import quantiles, summarize
from streams.wire.messages import RankingResponse

Phase = Literal["warm-up", "measured", "draining", "audit"]
PHASES: tuple[Phase, ...] = ("warm-up", "measured", "draining", "audit")

SECONDS_SHOWN = 60
FRESH_WINDOW_MS = 5_000
ENTROPY_WINDOW_MS = 15_000
"""Clicks are rare: an entropy over fewer seconds would show their number more than their prediction."""


def _minute() -> deque[float | None]:
    return deque(maxlen=SECONDS_SHOWN)


@dataclass(slots=True)
class Series:
    """One value a second, the newest last; None where there was none."""

    rate: deque[float | None] = field(default_factory=_minute)
    p50_ms: deque[float | None] = field(default_factory=_minute)
    p99_ms: deque[float | None] = field(default_factory=_minute)
    fresh_p50_ms: deque[float | None] = field(default_factory=_minute)
    fresh_p99_ms: deque[float | None] = field(default_factory=_minute)
    live: deque[float | None] = field(default_factory=_minute)
    frozen: deque[float | None] = field(default_factory=_minute)
    cost_ms: deque[float | None] = field(default_factory=_minute)
    price: deque[float | None] = field(default_factory=_minute)

    def add_traffic(self, news: dict[str, Any], answered: int) -> None:
        """Adds a second of the ad system's side: its latencies, and how many answers it got."""
        latency = news["latency_ms"] or {"p50": None, "p99": None}
        self.rate.append(answered)
        self.p50_ms.append(latency["p50"])
        self.p99_ms.append(latency["p99"])

    def forget_entropies(self) -> None:
        """Drops the entropies: those of a young model are so high that nothing else could be seen beside them."""
        self.live.clear()
        self.frozen.clear()

    def add_observed(self, observer: Observer, now_ms: int) -> None:
        """Adds a second of what was seen on the topics."""
        part = observer.part
        recent = [e.total_ms for e in part.fresh if e.cause == "click" and e.event_ms > now_ms - FRESH_WINDOW_MS]
        fresh = quantiles(recent)
        self.fresh_p50_ms.append(fresh["p50"] if fresh else None)
        self.fresh_p99_ms.append(fresh["p99"] if fresh else None)
        entropy = entropies([s for s in part.steps if s.created_ms > now_ms - ENTROPY_WINDOW_MS])
        self.live.append(entropy.live if entropy else None)
        self.frozen.append(entropy.frozen if entropy else None)
        self.cost_ms.append(part.mean_cost_ms)
        self.price.append(observer.router.price if observer.router else None)


@dataclass(slots=True)
class Scene:
    house: str
    """What it runs on."""
    logs: str
    """Where the log files are."""
    budget_ms: float
    part: Part
    phase: Phase = "warm-up"
    progress: float = 0.0
    """Share of the phase that is over, 0 to 1."""
    progress_text: str = ""
    traffic: dict[str, Any] = field(default_factory=dict)
    """The ad system's newest counts."""
    series: Series = field(default_factory=Series)
    page: RankingResponse | None = None
    """The newest ads that somebody got."""
    price: float | None = None
    learned_rewards: int = 0
    frozen_after: int | None = None
    log_size: LogSize | None = None

    entropies: Entropies | None = None
    """Normalized entropies of this part so far."""
    clicks: dict[str, Any] | None = None
    """Freshness of this part's clicks, as `summarize` has it."""

    def second(self, observer: Observer, now_ms: int) -> None:
        """Takes over what the observer knows now. Called once a second: it looks at all of the part."""
        self.part, self.frozen_after, self.log_size = observer.part, observer.frozen_after, observer.log_size
        self.page = observer.page
        if observer.router is not None:
            self.price, self.learned_rewards = observer.router.price, observer.router.learned
        self.entropies = entropies(self.part.steps)
        self.clicks = summarize(e for e in self.part.fresh if e.cause == "click").get("click")
        self.series.add_observed(observer, now_ms)

    @property
    def latency_ms(self) -> dict[str, float] | None:
        """Latency in the phase so far, from when a request was due until its answer was read."""
        latency: dict[str, float] | None = self.traffic.get("phase_latency_ms")
        return latency
