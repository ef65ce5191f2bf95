"""One rate, measured: requests go out when they are due, and what comes back is counted. Knows nothing of Redis."""

import time
from bisect import bisect_right
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from typing import Any

from streams.client import RankingClient
from streams.errors import StreamError
from streams.load.histogram import Histogram
from streams.load.schedule import Pacing, due_times
from streams.simulate.config import WorldConfig, demo
from streams.simulate.driver import Phase, simulate
from streams.simulate.world import World
from streams.wire.messages import MAX_CANDIDATES, RankingResponse

PHASES = ("decode", "fetch", "route", "score")
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9}
MAX_USERS = 1_000_000
MAX_TIMEOUT_MS = 600_000
LATE_MS = 10.0
"""A sender whose 99th percentile is later than this is itself too slow for the rate, and is said to be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadOptions:
    """What every request of a run has in common."""

    seconds: float = 30.0
    """Seconds for which requests of each rate are sent."""
    candidates: int = 100
    users: int = 100
    deadline_ms: int = 1_000
    """Deadline of every request; an answer read later than this after the request was due is not in time."""
    timeout_ms: int = 5_000
    """A request without an answer for this long is counted as having taken it."""
    pacing: Pacing = "poisson"
    events: bool = True
    """What comes back is shown, clicked and bought, so that the trainer goes on publishing."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.candidates <= MAX_CANDIDATES:
            raise ValueError(f"candidates must be 1 to {MAX_CANDIDATES}, the most of a request; got {self.candidates}")
        if not 1 <= self.users <= MAX_USERS:
            raise ValueError(f"users must be 1 to {MAX_USERS}, got {self.users}")
        if not 1 <= self.deadline_ms <= self.timeout_ms <= MAX_TIMEOUT_MS:
            raise ValueError(
                f"1 <= deadline_ms <= timeout_ms <= {MAX_TIMEOUT_MS} must hold, "
                f"got {self.deadline_ms} and {self.timeout_ms}; "
                "an answer that is still in time must not count as none"
            )

    def world(self) -> World:
        """Returns the world whose requests these are: all of the same size, with events that follow within a few
        seconds. Its users are nobody else's: whose log is filled at once has no tags left of what came before, and an
        event of a simulated ad system's that is sent again would be stored again."""
        base, now_ms = demo(), time.time_ns() // 1_000_000
        return World(_world_config(base, self), seed=self.seed, start_ms=now_ms, users="load")


def _world_config(base: WorldConfig, options: LoadOptions) -> WorldConfig:
    return replace(
        base,
        users=options.users,
        items=max(base.items, 2 * options.candidates),
        flight_share=1.0,
        candidates_min=options.candidates,
        candidates_median=options.candidates,
        candidates_max=options.candidates,
        candidates_spread=0.0,
        conversion_delay_s=0.5,
        reorder_s=0.5,
        shown=base.shown if options.events else 0,
        explored=0.0,  # such a request asks for all items back: a load of requests that are alike has none
        search_share=base.search_share if options.events else 0.0,
    )


@dataclass(slots=True)
class Row:
    """What one rate gave. Latency is from when a request was due until its first response was read."""

    rate: float
    """Rate asked for, requests a second."""
    seconds: float
    deadline_ms: int
    timeout_ms: int
    sent: int = 0
    in_time: int = 0
    """Answers that were scored, and read within the deadline."""
    latency: Histogram = field(default_factory=Histogram)
    """Latency of all requests sent. Unanswered requests count as the time-out."""
    late: Histogram = field(default_factory=Histogram)
    """How long after it was due a request left: the load generator's own delay, a part of the latency."""
    timeouts: int = 0
    unscored: Counter[str] = field(default_factory=Counter)
    """Answers without scores, by reason."""
    tiers: Counter[str] = field(default_factory=Counter)
    phases: dict[str, Histogram] = field(default_factory=lambda: defaultdict(Histogram))
    """Milliseconds of a micro-batch by phase, as the worker tells them."""
    versions: set[tuple[int, int]] = field(default_factory=set)
    """(epoch, number) of the weights that scored."""
    behind_s: float | None = None
    """Seconds of the run's examples that the newest weights had not learned when the last answer was there; None where
    nobody learns."""
    read_s: list[float] = field(default_factory=list)
    """When answers were read, in seconds from the start, in that order."""

    def reached(self, grace_ms: float | None = None) -> float:
        """Answers a second over the time that requests were due.

        Those count that were read up to `grace_ms` after that time, by default the median latency: they were on their
        way as answers always are. Who cannot keep up has more on the way than that.
        """
        grace_ms = self.latency.percentile(50) or 0.0 if grace_ms is None else grace_ms
        return bisect_right(self.read_s, self.seconds + grace_ms / 1000) / self.seconds

    @property
    def in_time_share(self) -> float:
        return self.in_time / self.sent

    @property
    def sender_behind(self) -> bool:
        late = self.late.percentile(99)
        return late is not None and late > LATE_MS

    def as_dict(self) -> dict[str, Any]:
        """Returns the row as JSON has it; times in ms."""
        return {
            "rate": self.rate,
            "rate_reached": round(self.reached(), 2),
            "seconds": self.seconds,
            "requests": self.sent,
            "in_time_share": round(self.in_time_share, 4),
            "latency_ms": {**_percentiles(self.latency), "max": self.latency.max},
            "fallbacks": dict(self.unscored),
            "timeouts": self.timeouts,
            "tier_share": {tier: round(n / self.tiers.total(), 4) for tier, n in sorted(self.tiers.items())},
            "phases_ms": {name: _rounded(self.phases[name].percentile(50)) for name in PHASES if name in self.phases},
            "weight_versions": len(self.versions),
            "trainer_behind_s": _rounded(self.behind_s),
            "send_late_ms": {**_percentiles(self.late), "max": self.late.max},
            "sender_behind": self.sender_behind,
        }


class _Count:
    """Observes a run into a row. Times are seconds from the run's start, which the first request tells."""

    def __init__(self, row: Row, first_due_s: float) -> None:
        self.row = row
        self._first_due_s = first_due_s
        self._start_s = 0.0

    def sent(self, late_ms: float) -> None:
        if not self.row.sent:
            self._start_s = time.monotonic() - late_ms / 1000 - self._first_due_s
        self.row.sent += 1
        self.row.late.record(late_ms)

    def answered(self, response: RankingResponse, latency_ms: float) -> None:
        row = self.row
        if latency_ms > row.timeout_ms:
            return  # as if it had not come
        row.read_s.append(time.monotonic() - self._start_s)
        row.latency.record(latency_ms)
        if response.status != "ok":
            row.unscored[response.reason if response.status == "fallback" and response.reason else response.status] += 1
            return
        row.in_time += latency_ms <= row.deadline_ms
        row.tiers[response.tier or "?"] += 1
        if response.model is not None:
            row.versions.add((response.model.epoch, response.model.number))
        if response.timings is not None:
            for name in PHASES:
                row.phases[name].record(getattr(response.timings, name))


def measure(client: RankingClient, world: World, rate: float, options: LoadOptions, *, prefix: str) -> Row:
    """Sends at that rate for `options.seconds`, and waits for the answers up to the time-out.

    prefix: begins every request id; two runs against one broker need different ones.
    Raises ValueError on a senseless rate, StreamError if the broker takes nothing or nobody answers.
    """
    due_s = due_times(rate, options.seconds, pacing=options.pacing, seed=options.seed)
    row = Row(rate=rate, seconds=options.seconds, deadline_ms=options.deadline_ms, timeout_ms=options.timeout_ms)
    try:
        simulate(
            client,
            world,
            [Phase(rate=rate, due_s=due_s.tolist())],
            prefix=prefix,
            deadline_ms=options.deadline_ms,
            observer=_Count(row, float(due_s[0])),
            drain_s=options.timeout_ms / 1000,
        )
    except TimeoutError as error:
        raise StreamError(f"the broker no longer takes what is sent: {error}") from error
    if not row.latency.count:
        raise StreamError(
            f"none of {row.sent} requests was answered within {options.timeout_ms} ms; check that `tiderank rank` runs "
            "against the same broker (TIDERANK_BOOTSTRAP) and says so in its log"
        )
    row.timeouts = row.sent - row.latency.count
    if row.timeouts:
        row.latency.record(options.timeout_ms, times=row.timeouts)
    return row


def _percentiles(histogram: Histogram) -> dict[str, float | None]:
    return {name: _rounded(histogram.percentile(percent)) for name, percent in PERCENTILES.items()}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
