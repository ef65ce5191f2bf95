"""A user's log again, from the events that Kafka keeps: what ingest has handled of them, in its order, each once."""

import heapq
import logging
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, Message, TopicPartition
from redis import Redis

from feature_store.events import with_item_of
from feature_store.facts import ActionFact, ImpressionFact, Position
from feature_store.join import Joiner
from feature_store.rebuild import LogEntry, complete, read_whole, replace_log
from streams.config.recipe import EventKinds
from streams.config.settings import Settings
from streams.errors import Refused, StreamError
from streams.kafka.connection import Kafka
from streams.kafka.scan import STALL_S
from streams.runtime.redis_client import PATIENT_S, check, connect
from streams.user.records import is_of
from streams.wire.event_time import TimeBounds
from streams.wire.record import Record
from streams.wire.topics import CONVERSIONS, IMPRESSIONS
from streams.workers.ingest.events import to_fact

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
    with closing(UserEvents(settings.kafka, user, recipe.times)) as events:
        events.read(joiner.offsets())  # the long part; what comes meanwhile is read below
        for _ in range(ATTEMPTS):
            # The log first, then how far ingest is: so the events reach as far as the log does, and no further than
            # ingest does. Whatever it appends from here on changes the log, and we begin again.
            seen = read_whole(redis, user, recipe.log)
            events.read(joiner.offsets())
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
    """The user's events up to where ingest is. One reader stays open, so that reading on takes a moment. Close it."""

    def __init__(self, kafka: Kafka, user: str, times: TimeBounds) -> None:
        self._user = user
        self._times = times
        self._records: defaultdict[Place, list[Record]] = defaultdict(list)
        self._seen: dict[Place, int] = {}
        """Next offset to be read, of each partition that showed something."""
        self._handled: Mapping[Place, int] = {}
        self._reader = kafka.reader()
        places = [(topic, p) for topic in EVENT_TOPICS for p in kafka.partitions(topic)]
        self._reader.assign([TopicPartition(*place, OFFSET_BEGINNING) for place in places])

    def read(self, handled: Mapping[Place, int]) -> None:
        """Reads at least up to these offsets, and from now on gives what lies before them.

        Raises StreamError if the broker stops handing records out before that.
        """
        self._handled = handled
        heard = time.monotonic()
        while self._behind():
            first = self._reader.poll(0.1)
            if first is None:
                if time.monotonic() - heard > STALL_S:
                    places = ", ".join(self._behind())
                    raise StreamError(
                        f"the broker handed out nothing of {places} for {STALL_S:.0f} s, and there is more"
                    )
                continue
            heard = time.monotonic()
            for message in (first, *self._reader.consume(999, timeout=0)):
                self._take(message)

    def entries(self) -> list[LogEntry]:
        """In the order of the broker's time, and within a partition in its own; each event once.

        Ingest goes by the same orders, but what comes at the same time on two topics it may take either way.
        """
        order = sorted(self._records, key=lambda place: (EVENT_TOPICS.index(place[0]), place[1]))
        reached = [[r for r in self._records[place] if r.offset < self._handled.get(place, 0)] for place in order]
        by_id: dict[str, LogEntry] = {}
        shown: dict[str, bytes] = {}
        for record in heapq.merge(*reached, key=lambda record: record.timestamp_ms):
            try:
                fact = to_fact(record, EventKinds(), self._times)
            except Refused:  # by ingest too
                continue
            assert isinstance(fact, ImpressionFact | ActionFact)  # of these topics
            names_item = isinstance(fact, ImpressionFact) or fact.item is not None
            stored = fact.record
            if isinstance(fact, ImpressionFact):
                shown.setdefault(fact.event_id, fact.record)
            elif not names_item and fact.impression_id in shown:  # as ingest stores it
                stored = with_item_of(fact.record, shown[fact.impression_id])
            by_id.setdefault(fact.event_id, LogEntry(fact.event_id, stored, names_item))
        return list(by_id.values())

    def close(self) -> None:
        self._reader.close()

    def _behind(self) -> list[str]:
        return [
            f"{place[0]}[{place[1]}]"
            for place, end in self._handled.items()
            if place[0] in EVENT_TOPICS and self._seen.get(place, 0) < end
        ]

    def _take(self, message: Message) -> None:
        place = (message.topic() or "", message.partition() or 0)
        error = message.error()
        if error is not None:
            if error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(error)
            self._seen[place] = max(self._seen.get(place, 0), message.offset() or 0)
            return
        record = Record.of(message)
        self._seen[place] = record.offset + 1
        if is_of(record, self._user):
            self._records[place].append(record)
