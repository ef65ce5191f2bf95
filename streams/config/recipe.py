"""A recipe: the whole configuration of one deployment. Its fields, their defaults, and what must hold between them."""

import math
from dataclasses import dataclass, field
from typing import Literal

from feature_store.config import JoinConfig, LogConfig
from ranker.config import ITEM, GateConfig, LearnerConfig, ModelConfig
from ranker.delayed.policies import POLICIES
from ranker.snapshots.retention import Retention
from router_bandit.budget import BudgetOptions
from router_bandit.plans import Plan
from router_bandit.policy import Exploration
from router_bandit.value_model import ValueOptions
from streams.wire.event_time import TimeBounds

JOIN_HOLD_S = 30.0
"""How long a trainer waits at most for the join to go on: after Redis was away, and when workers change, ingest holds
its windows for 10 s."""
Value = Literal["bid*pctr", "bid*pctr*pcvr", "pctr"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EventKinds:
    """What the kinds of conversions mean to the join; every other kind goes to the log alone."""

    clicks: tuple[str, ...] = ("click",)
    conversions: tuple[str, ...] = ("purchase",)


@dataclass(frozen=True, kw_only=True, slots=True)
class RankingConfig:
    value: Value = "bid*pctr"
    """What candidates are ordered by."""
    thompson_clicks: float | None = None
    """Gives new ads a fair start: candidates are ordered by a pCTR that is drawn from what it may well be, where what
    was known of an ad before it was shown counts as so many clicks. The pCTR that is sent stays the prediction. Needs
    `["item"]` among model.statistics. None: nothing is drawn."""
    batch_max: int = 8
    """Requests in one micro-batch: a larger one scores more a second, and holds its first request longer."""
    default_deadline_ms: int = 2_000
    """Deadline of requests that name none; past it they get a fallback."""
    reply_prefix: str = "ranking.responses"
    """Reply topics must begin so: a request must not make the worker write into other topics."""

    def __post_init__(self) -> None:
        if not 1 <= self.batch_max <= 10_000 or self.default_deadline_ms < 1:
            raise ValueError(
                "batch_max must be 1 to 10000 and default_deadline_ms >= 1, "
                f"got {self.batch_max} and {self.default_deadline_ms}"
            )
        if self.thompson_clicks is not None and not 0 < self.thompson_clicks < math.inf:
            raise ValueError(f"thompson_clicks must be > 0, or none, got {self.thompson_clicks}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cascade:
    first: str
    then: str
    keep: int

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"a cascade keeps at least one candidate, got keep={self.keep}")


@dataclass(frozen=True, kw_only=True, slots=True)
class RoutingConfig:
    tiers: tuple[str, ...] = ("light", "heavy")
    """Tiers that are a plan each, alone."""
    cascades: tuple[Cascade, ...] = (Cascade(first="light", then="heavy", keep=20),)
    exploration: Exploration = Exploration()
    values: ValueOptions = ValueOptions()
    budget: BudgetOptions = BudgetOptions()
    reward_window_ms: int = 60_000
    """Length of a decision's reward window, in event time: what its response earns by the end is its reward."""
    publish_s: float = 2.0
    """Least time between two records of router.model."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.tiers and not self.cascades:
            raise ValueError("routing needs a plan: name a tier in `tiers`, or a cascade")
        if len(set(self.tiers)) != len(self.tiers):
            raise ValueError(f"each tier is one plan: `tiers` must be unique, got {list(self.tiers)}")
        if self.reward_window_ms < 1 or self.publish_s <= 0:
            raise ValueError(
                f"reward_window_ms and publish_s must be > 0, got {self.reward_window_ms} and {self.publish_s}"
            )

    def router_plans(self) -> tuple[Plan, ...]:
        singles = [Plan.single(tier) for tier in self.tiers]
        return (*singles, *(Plan.cascade(c.first, c.then, keep=c.keep) for c in self.cascades))


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    learner: LearnerConfig = LearnerConfig()
    gate: GateConfig = GateConfig()
    step_s: float = 0.1
    """Least time from the start of a step to that of the next: a step for each example would spend most of its time
    starting."""
    batch_max: int = 512
    """Examples in one step at most: a trainer that is behind takes so many a step until it is not."""
    behind_max_s: float = 3_600.0
    """An example that has been on its topic for longer is not learned, but counted: what is new comes first."""
    snapshot_s: float = 30.0
    snapshots_kept: int = 3
    """So many of the newest are kept; besides them, the newest of each of so many last hours and days (UTC) that have
    one:"""
    snapshots_hourly: int = 0
    snapshots_daily: int = 0
    freeze_after: int | None = None
    """After so many examples a copy of the model is kept as it is and graded beside the live one."""

    def __post_init__(self) -> None:
        if (
            min(self.step_s, self.snapshot_s, self.behind_max_s) <= 0
            or self.snapshots_kept < 1
            or not 1 <= self.batch_max <= 100_000
        ):
            raise ValueError(
                "step_s, snapshot_s and behind_max_s must be > 0, snapshots_kept >= 1 and batch_max 1 to 100000, got "
                f"{self.step_s}, {self.snapshot_s}, {self.behind_max_s}, {self.snapshots_kept}, {self.batch_max}"
            )
        if min(self.snapshots_hourly, self.snapshots_daily) < 0:
            raise ValueError(
                "snapshots_hourly and snapshots_daily must be >= 0, "
                f"got {self.snapshots_hourly} and {self.snapshots_daily}"
            )

    @property
    def retention(self) -> Retention:
        """Which snapshots are kept, by the fields `snapshots_*`."""
        return Retention(newest=self.snapshots_kept, hourly=self.snapshots_hourly, daily=self.snapshots_daily)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    name: str
    model: ModelConfig
    log: LogConfig = LogConfig()
    join: JoinConfig = JoinConfig()
    kinds: EventKinds = EventKinds()
    ranking: RankingConfig = RankingConfig()
    routing: RoutingConfig = RoutingConfig()
    training: TrainingConfig = field(default_factory=TrainingConfig)
    clock: Literal["live", "event"] = "live"
    """`live`: where all is read and nothing comes, windows go on closing by the wall clock. `event`: time stands still
    without events (replays)."""
    lateness_ms: int = 1_000
    """How far the wall clock keeps behind, with the `live` clock: events still on their way are not late."""
    max_future_ms: int = 60_000
    """Events further ahead of the broker's clock are refused."""
    min_event_ms: int = 10**12
    """Time before which events are refused: September 2001, which no time given in seconds reaches."""

    @property
    def wall_lag_ms(self) -> int | None:
        """How far the wall clock keeps behind, in ms; None: it moves nothing."""
        return self.lateness_ms if self.clock == "live" else None

    @property
    def times(self) -> TimeBounds:
        return TimeBounds(min_ms=self.min_event_ms, max_future_ms=self.max_future_ms)

    def __post_init__(self) -> None:
        if min(self.lateness_ms, self.max_future_ms, self.min_event_ms) < 0:
            raise ValueError(
                "lateness_ms, max_future_ms and min_event_ms must be >= 0, "
                f"got {self.lateness_ms}, {self.max_future_ms} and {self.min_event_ms}"
            )
        if self.ranking.thompson_clicks is not None and (ITEM,) not in self.model.statistics:
            raise ValueError(
                f"ranking.thompson_clicks needs the impressions of items: have [{ITEM!r}] among model.statistics, "
                f"got {[list(statistic) for statistic in self.model.statistics]}"
            )
        for tier in (*self.routing.tiers, *(t for c in self.routing.cascades for t in (c.first, c.then))):
            self.model.tier(tier)
        conversions = self.training.learner.conversions
        policy = POLICIES[conversions]
        if self.join.provisional != policy.provisional:
            raise ValueError(
                f"training.learner.conversions = {conversions!r} needs join.provisional = {policy.provisional!r}, "
                f"got {self.join.provisional!r}"
            )
        clicks = self.training.learner.clicks
        if (clicks == "es_dfm") != (self.join.click_elapsed_ms > 0):
            raise ValueError(
                "training.learner.clicks = 'es_dfm' goes with join.click_elapsed_ms > 0, and 'wait' with 0, "
                f"got {clicks!r} and {self.join.click_elapsed_ms}"
            )
        if policy.learns_late and not self.model.learns_late:
            raise ValueError(f"training.learner.conversions = {conversions!r} needs model.learns_late = true")
        if self.log.length < self.model.max_log_length:
            raise ValueError(
                f"log.length must hold the longest tier's log, {self.model.max_log_length}; got {self.log.length}"
            )
