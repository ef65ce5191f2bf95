"""The audit from end to end: what is read, in which order, and what is held against what.

Everything may go on running meanwhile. So the ends of all topics are taken first, of effects before those of their
causes: no effect before this cut then lacks its cause. What lies before the cut is judged, and nothing else. A cause
that lacks its effect is looked at again, for as long as whoever is to bring it gets on: the offsets that a worker has
reached say where to look, and not that all before them is done. That is what the logs, examples and rewards say.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import cast

from redis import Redis

from feature_store.config import WINDOWS, JoinConfig, LogConfig, windows
from feature_store.join import Joiner
from router_bandit.windows import WindowOptions, to_places
from streams.audit.events import Events, RecordPlace
from streams.audit.joins import Joins
from streams.audit.learned import Learned
from streams.audit.logs import Logs
from streams.audit.patience import PATIENCE_S, Patience
from streams.audit.report import AuditReport, Section
from streams.audit.requests import Requests
from streams.audit.rewards import Rewards
from streams.audit.source import Place, Source
from streams.config.recipe import JOIN_HOLD_S, Recipe
from streams.config.settings import Settings
from streams.errors import StartError
from streams.runtime.redis_client import PATIENT_S, check, connect
from streams.wire.topics import (
    CONVERSIONS,
    DEAD_LETTERS,
    DECISIONS,
    EXAMPLES,
    GROUPS,
    IMPRESSIONS,
    OUTCOMES,
    REQUESTS,
    REWARDS,
    SERVED,
    UPDATES,
)

Frontier = Mapping[Place, int]
"""The offset in each partition that a worker has reached."""
EVENTS = (SERVED, IMPRESSIONS, CONVERSIONS)
EFFECTS_FIRST = (
    UPDATES,
    REWARDS,
    EXAMPLES,
    OUTCOMES,
    DECISIONS,
    DEAD_LETTERS,
    CONVERSIONS,
    IMPRESSIONS,
    SERVED,
    REQUESTS,
)
OUTCOME_GRACE_MS = 5_000
"""An example's outcome is delivered within this after it."""


def run_audit(settings: Settings, *, patience_s: float = PATIENCE_S) -> AuditReport:
    """Reads all topics and Redis. Changes nothing. Raises StartError where the broker or Redis does not answer.

    patience_s: how long what waits for a worker may wait without any of it being taken in.
    """
    settings.kafka.check()
    redis = connect(settings.redis_url, timeout_s=PATIENT_S)
    check(redis, settings.redis_url)
    used = redis.get(WINDOWS)
    if isinstance(used, bytes) and used != windows(settings.recipe.join):
        raise StartError(
            f"ingest closes windows by {used.decode()}, and recipe {settings.recipe.name} has other ones: "
            "name ingest's recipe with --recipe, or every open label would look wrong"
        )
    return Audit(settings.recipe, Source(settings.kafka), redis, Patience(patience_s), int(time.time() * 1000)).run()


class Audit:
    def __init__(self, recipe: Recipe, source: Source, redis: Redis, patience: Patience, now_ms: int) -> None:
        self._recipe = recipe
        self._source = source
        self._redis = redis
        self._patience = patience
        self._joiner = Joiner(redis, LogConfig(), JoinConfig())
        self._reply_topics = source.topics(recipe.ranking.reply_prefix)
        self._now_ms = now_ms
        # Before the cut, as the dead letters of what lies before them then are.
        self._passed = source.committed(GROUPS["ingest"], *EVENTS)
        self._ingested_before = self._ingested()
        self._rewarded_before = self._rewarded()
        # An answer counts from when it is there, and an aborted request may have one.
        source.take_cut((*self._reply_topics, *EFFECTS_FIRST), uncommitted=(*self._reply_topics, REQUESTS))
        self._held = source.behind_open_transaction(*EVENTS) > 0
        self._letters = source.letters()

    def run(self) -> AuditReport:
        requests = self._requests()
        learned = Learned(self._recipe.model.digest)
        for record in self._source.read(UPDATES):
            learned.add(record)
        joins = Joins(self._recipe.join)
        for record in self._source.read(EXAMPLES):
            joins.add(record)
        learning = learned.section(self._source.cut(EXAMPLES), updates_whole=self._whole(UPDATES))
        rewards = self._rewards(joins)
        events = self._events(joins)
        self._await_learning(learned, learning)
        let_go = {topic: count for topic, count in self._source.let_go.items() if count}
        return AuditReport((requests, *events, learning, *rewards), let_go)

    def _whole(self, *topics: str) -> bool:
        return self._source.whole(*topics)

    def _requests(self) -> Section:
        source, default_ms = self._source, self._recipe.ranking.default_deadline_ms
        requests = Requests(self._letters, default_deadline_ms=default_ms, now_ms=self._now_ms)
        for topic in self._reply_topics:
            for record in source.read(topic):
                requests.add_response(record)
        for record in source.read(REQUESTS):
            requests.add_request(record)
        if places := requests.unanswered():
            since = {p: min(offset for _, q, offset in places if q == p) for _, p, _ in places}
            requests.excuse(source.committed_records(REQUESTS, since), source.stable(REQUESTS))

            def left() -> int:
                responses = chain(*map(source.read_on, self._reply_topics))
                return len(requests.unanswered(responses, self._more_letters()))

            self._patience.wait(left)
        return requests.section(requests_whole=self._whole(REQUESTS), responses_whole=self._whole(*self._reply_topics))

    def _events(self, joins: Joins) -> list[Section]:
        recipe, source = self._recipe, self._source
        events = Events(self._letters, self._ingested_before, kinds=recipe.kinds, times=recipe.times)
        for topic in EVENTS:
            events.add_all(source.read(topic))
        ingested = self._await_reader(self._ingested, EVENTS)
        events.settle(ingested, self._more_letters(), self._passed)

        def catch_up() -> None:
            events.add_all(chain(*map(source.read_on, EVENTS)))

        joins.compare(
            events,
            events.clock_bound(recipe.wall_lag_ms),
            self._redis,
            self._now_ms,
            read_on=lambda: source.read_on(EXAMPLES),
            catch_up=catch_up,
            patience=self._patience,
        )
        section = events.section(behind_open_transaction=source.behind_open_transaction(*EVENTS))
        logs = Logs(self._redis, events, recipe.log, self._now_ms)
        logs.compare_all()
        if logs.suspects():
            logs.compare_again(catch_up)
        joined = joins.section(events_whole=self._whole(*EVENTS), examples_whole=self._whole(EXAMPLES), held=self._held)
        self._explain(section, "ingest")
        self._explain(joined, "ingest")
        if section.wrong("passed_unread"):
            section.reasons.append(
                f"the group {GROUPS['ingest']} has passed them, and Redis does not have them: it has lost data, or the "
                "group's offsets were moved; ingest, started again, reads on from where Redis stands"
            )
        return [
            section,
            logs.section(events_whole=self._whole(IMPRESSIONS, CONVERSIONS)),
            joined,
        ]

    def _rewards(self, joins: Joins) -> list[Section]:
        """Nothing where no rewards worker ever ran."""
        recipe, source = self._recipe, self._source
        rewards = Rewards(
            self._letters,
            self._rewarded_before,
            window_ms=recipe.routing.reward_window_ms,
            wall_lag_ms=recipe.wall_lag_ms,
        )
        for record in source.read(REWARDS):
            rewards.add_reward(record)
        if not any(source.cut(REWARDS).values()) and not any(self._rewarded_before.values()):
            return []
        for topic in (OUTCOMES, DECISIONS):
            for record in source.read(topic):
                rewards.add_fact(record)
        rewarded = self._await_reader(self._rewarded, (DECISIONS, OUTCOMES))
        rewards.settle(rewarded, self._more_letters())
        rewards.compare(
            self._redis,
            self._now_ms,
            read_on=lambda: source.read_on(REWARDS),
            catch_up=lambda: source.read_on(OUTCOMES),
            patience=self._patience,
        )
        section = rewards.section(
            facts_whole=self._whole(DECISIONS, OUTCOMES), rewards_whole=self._whole(REWARDS), held=self._held
        )
        untold = rewards.without_outcome(joins.positives_before(self._now_ms - OUTCOME_GRACE_MS))
        section.fault("examples_without_outcome", untold, verifiable=self._whole(OUTCOMES))
        self._explain(section, "rewards")
        return [section]

    def _await_learning(self, learned: Learned, section: Section) -> None:
        wanted = {partition: offset for (_, partition), offset in self._source.wanted(EXAMPLES).items()}

        def left() -> int:
            for record in self._source.read_on(UPDATES):
                learned.add(record)
            return sum(learned.behind(wanted).values()) if learned.begun and not learned.kept_out else 0

        # A trainer waits for the join where windows are held.
        self._patience.wait(left, extra_s=JOIN_HOLD_S)
        learned.add_not_learned(section, wanted, held=self._held)
        self._explain(section, "train")

    def _await_reader(self, frontier: Callable[[], Frontier], topics: Sequence[str]) -> Frontier:
        """Waits until the worker has reached what lies before the cut, while it gets on. Returns where it stands."""
        wanted, reached = self._source.wanted(*topics), frontier()

        def left() -> int:
            nonlocal reached
            reached = frontier()
            return sum(max(0, offset - reached.get(place, 0)) for place, offset in wanted.items())

        self._patience.wait(left)
        return reached

    def _explain(self, section: Section, worker: str) -> None:
        """Says that nobody works on what waits."""
        unread = section.wrong("passed_unread", "not_read", "not_learned")
        if unread or section.wrong("overdue"):
            section.reasons.append(
                f"nothing {'reads' if unread else 'closes'} them: {worker} has not got on for "
                f"{self._patience.seconds:g} s; see that `tiderank {worker}` runs, and what its log says"
            )

    def _ingested(self) -> Frontier:
        """Either may have forgotten its newest part."""
        stored, committed = self._joiner.offsets(), self._source.committed(GROUPS["ingest"], *EVENTS)
        return {place: min(offset, stored.get(place, 0)) for place, offset in committed.items()}

    def _rewarded(self) -> Frontier:
        """Where Redis stands, as rewards reads on there; 0 of a topic made anew: its group's offsets went with it."""
        stored = to_places(cast(dict[bytes, bytes], self._redis.hgetall(WindowOptions().places_key)))
        committed = self._source.committed(GROUPS["rewards"], DECISIONS, OUTCOMES)
        return {place: stored.get(place, 0) if offset else 0 for place, offset in committed.items()}

    def _more_letters(self) -> set[RecordPlace]:
        self._letters |= self._source.letters(on=True)
        return self._letters
