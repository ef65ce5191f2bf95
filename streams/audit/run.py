"""The audit from end to end: what is read, in which order, and what is held against what.

Everything may go on running meanwhile. So effects are read before their causes (no effect then lacks its cause), and a
cause that lacks its effect is looked at again after Redis was asked and the effects were read on.
"""

import time
from collections.abc import Mapping
from itertools import chain

from redis import Redis

from feature_store.config import WINDOWS, JoinConfig, LogConfig, windows
from feature_store.join import Joiner
from streams.audit.events import Events
from streams.audit.joins import Joins
from streams.audit.learned import Learned
from streams.audit.logs import Logs
from streams.audit.report import AuditReport, Section
from streams.audit.requests import Requests
from streams.audit.rewards import Rewards
from streams.audit.source import Place, Source
from streams.errors import StartError
from streams.redis_client import PATIENT_S, check, connect
from streams.settings import Settings
from streams.topics import CONVERSIONS, DECISIONS, EXAMPLES, IMPRESSIONS, OUTCOMES, REQUESTS, REWARDS, SERVED, UPDATES
from streams.workers.ingest import GROUP as INGEST

EVENTS = (SERVED, IMPRESSIONS, CONVERSIONS)
OUTCOME_GRACE_MS = 5_000
"""An example's outcome is delivered within this after it."""


def run_audit(settings: Settings) -> AuditReport:
    """Reads all topics and Redis. Changes nothing. Raises StartError where the broker or Redis does not answer."""
    settings.kafka.check()
    redis = connect(settings.redis_url, timeout_s=PATIENT_S)
    check(redis, settings.redis_url)
    used = redis.get(WINDOWS)
    if used is not None and used != windows(settings.recipe.join):
        raise StartError(
            f"ingest closes windows by {used!r}, and recipe {settings.recipe.name} has other ones: "
            "name ingest's recipe with --recipe, or every open label would look wrong"
        )
    return _Audit(settings, Source(settings.kafka), redis).run()


class _Audit:
    def __init__(self, settings: Settings, source: Source, redis: Redis) -> None:
        self._recipe = settings.recipe
        self._source = source
        self._redis = redis
        self._now_ms = int(time.time() * 1000)
        self._ingested = _smaller(Joiner(redis, LogConfig(), JoinConfig()).offsets(), source.committed(INGEST, *EVENTS))
        self._letters = source.letters()

    def run(self) -> AuditReport:
        requests = self._requests()
        learned = Learned(self._recipe.model.digest)
        for record in self._source.read(UPDATES):
            learned.add(record)
        joins = Joins(self._recipe.join)
        for record in self._source.read(EXAMPLES):
            joins.add(record)
        example_ends = self._source.ends(EXAMPLES)
        rewards = self._rewards(joins)
        sections = [requests, *self._events(joins), learned.section(example_ends, updates_whole=self._whole(UPDATES))]
        let_go = {topic: count for topic, count in self._source.let_go.items() if count}
        return AuditReport((*sections, *rewards), let_go)

    def _whole(self, *topics: str) -> bool:
        return self._source.whole(*topics)

    def _requests(self) -> Section:
        ranking = self._recipe.ranking
        requests = Requests(
            self._letters, default_deadline_ms=ranking.default_deadline_ms, now_ms=int(time.time() * 1000)
        )
        reply_topics = self._source.topics(ranking.reply_prefix)
        for topic in reply_topics:
            for record in self._source.read(topic):
                requests.add_response(record)
        for record in self._source.read(REQUESTS):
            requests.add_request(record)
        return requests.section(requests_whole=self._whole(REQUESTS), responses_whole=self._whole(*reply_topics))

    def _events(self, joins: Joins) -> list[Section]:
        recipe, source = self._recipe, self._source
        events = Events(self._letters, self._ingested, kinds=recipe.kinds, max_future_ms=recipe.max_future_ms)
        for topic in EVENTS:
            events.add_all(source.read(topic))
        clock = events.clock_bound(recipe.wall_lag_ms)
        joins.compare(events, clock, self._redis, self._now_ms, lambda: source.read_on(EXAMPLES))
        logs = Logs(self._redis, events, recipe.log, self._now_ms)
        logs.compare_all()
        if logs.suspects():
            logs.compare_again(lambda: events.add_all(chain(*map(source.read_on, EVENTS))))
        return [
            events.section(),
            logs.section(events_whole=self._whole(IMPRESSIONS, CONVERSIONS)),
            joins.section(events_whole=self._whole(*EVENTS), examples_whole=self._whole(EXAMPLES)),
        ]

    def _rewards(self, joins: Joins) -> list[Section]:
        """Nothing where no rewards worker ever ran."""
        from streams.workers.rewards import GROUP  # imports Faust, which takes its time

        recipe, source = self._recipe, self._source
        rewards = Rewards(
            self._letters,
            source.committed(GROUP, DECISIONS, OUTCOMES),
            window_ms=recipe.routing.reward_window_ms,
            wall_lag_ms=recipe.wall_lag_ms,
        )
        for record in source.read(REWARDS):
            rewards.add_reward(record)
        if not sum(source.ends(REWARDS).values()):
            return []
        for topic in (OUTCOMES, DECISIONS):
            for record in source.read(topic):
                rewards.add_fact(record)
        rewards.compare(self._redis, self._now_ms, lambda: source.read_on(REWARDS))
        section = rewards.section(facts_whole=self._whole(DECISIONS, OUTCOMES), rewards_whole=self._whole(REWARDS))
        untold = rewards.without_outcome(joins.positives_before(self._now_ms - OUTCOME_GRACE_MS))
        section.fault("examples_without_outcome", untold, verifiable=self._whole(OUTCOMES))
        return [section]


def _smaller(stored: Mapping[Place, int], committed: Mapping[Place, int]) -> dict[Place, int]:
    """Either may have forgotten its newest part."""
    return {place: min(offset, stored.get(place, 0)) for place, offset in committed.items()}
