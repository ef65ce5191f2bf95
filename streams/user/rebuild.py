"""A user's log again, from the events that Kafka keeps: what ingest has handled of them, in its order, each once."""

import heapq
import logging
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from redis import Redis

from feature_store.facts import ActionFact, ImpressionFact, Position
from feature_store.join import Joiner
from feature_store.rebuild import LogEntry, complete, read_whole, replace_log
from streams.errors import Refused, StreamError
from streams.events import EventKinds, to_fact
from streams.kafka import Kafka
from streams.record import Record
from streams.redis_client import PATIENT_S, check, connect
from streams.scan import read_topic
from streams.settings import Settings
from streams.topics import CONVERSIONS, IMPRESSIONS
from streams.user.records import is_of

log = logging.getLogger(__name__)

EVENT_TOPICS = (IMPRESSIONS, CONVERSIONS)
ATTEMPTS = 20

Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Rebuilt:
    events: int
    """Different ones of the user that Kafka keeps and ingest has handled."""
    held_before: int
    held: int
    """By the log now."""
    position: Position
    changed: bool
    """The log is a new generation; else nothing was missing."""


def rebuild(settings: Settings, user: str) -> Rebuilt:
    """Refills the log. Nothing is stored twice; the join, and so the labels, are left alone.

    Raises StartError where a server does not answer, and StreamError if the user's log never stands still.
    """
    settings.kafka.check()
    redis = connect(settings.redis_url, timeout_s=PATIENT_S)
    check(redis, settings.redis_url)
    recipe = settings.recipe
    joiner = Joiner(redis, recipe.log, recipe.join)
    events = UserEvents(user, recipe.max_future_ms)
    for _ in range(ATTEMPTS):
        events.read(settings.kafka, joiner.offsets())  # the long part; what comes meanwhile is read below
        # The log first, then how far ingest is: so the events reach as far as the log does, and no further than ingest
        # does. Whatever it appends from here on changes the log, and we begin again.
        seen = read_whole(redis, user, recipe.log)
        events.read(settings.kafka, joiner.offsets())
        entries = events.entries()
        wanted = complete(seen, entries, recipe.log)
        if wanted is None:
            return Rebuilt(len(entries), len(seen.records), len(seen.records), seen.position, changed=False)
        if replace_log(redis, user, seen.position, wanted, recipe.log):
            return _rebuilt(redis, settings, user, len(entries), len(seen.records))
        log.info("the log of %r was changed meanwhile: once more", user)
    raise StreamError(f"the log of {user!r} changed {ATTEMPTS} times while it was put together; try again later")


def _rebuilt(redis: Redis, settings: Settings, user: str, events: int, before: int) -> Rebuilt:
    now = read_whole(redis, user, settings.recipe.log)
    return Rebuilt(events, before, len(now.records), now.position, changed=True)


class UserEvents:
    """The user's events up to where ingest is; reading on costs what has come since."""

    def __init__(self, user: str, max_future_ms: int) -> None:
        self._user = user
        self._max_future_ms = max_future_ms
        self._records: defaultdict[Place, list[Record]] = defaultdict(list)
        self._next: dict[Place, int] = {}

    def read(self, kafka: Kafka, handled: Mapping[Place, int]) -> None:
        """Takes in what lies before these offsets."""
        for topic in EVENT_TOPICS:
            ends = {p: end for (name, p), end in handled.items() if name == topic}
            since = {p: self._next.get((topic, p), 0) for p in ends}
            if any(end > since[p] for p, end in ends.items()):
                for record in read_topic(kafka, topic, since):
                    if record.offset < ends.get(record.partition, 0) and is_of(record, self._user):
                        self._records[topic, record.partition].append(record)
            self._next |= {(topic, p): end for p, end in ends.items()}

    def entries(self) -> list[LogEntry]:
        """In the order of the broker's time, and within a partition in its own, which is what ingest goes by."""
        order = sorted(self._records, key=lambda place: (EVENT_TOPICS.index(place[0]), place[1]))
        merged = heapq.merge(*(self._records[place] for place in order), key=lambda record: record.timestamp_ms)
        by_id: dict[str, LogEntry] = {}
        for record in merged:
            try:
                fact = to_fact(record, EventKinds(), self._max_future_ms)
            except Refused:  # by ingest too
                continue
            assert isinstance(fact, ImpressionFact | ActionFact)  # of these topics
            by_id.setdefault(fact.event_id, LogEntry(fact.event_id, fact.record))
        return list(by_id.values())
