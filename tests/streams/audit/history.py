"""A small history, by hand: records of all topics, and a real Redis that took them in."""

from collections import defaultdict
from collections.abc import Collection

from msgspec import Struct
from redis import Redis

from feature_store.config import JoinConfig, LogConfig
from feature_store.facts import Label
from feature_store.join import Joiner
from feature_store.keys import log_key
from streams.audit.events import Events
from streams.audit.joins import Joins
from streams.audit.logs import Logs
from streams.audit.patience import Patience
from streams.audit.report import Section
from streams.config.recipe import EventKinds
from streams.wire.codec import encode
from streams.wire.event_time import TimeBounds
from streams.wire.messages import Conversion, Impression, LogRef, ModelVersion, Served, ServedItem
from streams.wire.record import Record
from streams.wire.topics import CONVERSIONS, EXAMPLES, IMPRESSIONS, SERVED, TOPICS
from streams.workers.ingest.events import to_example, to_fact

T0 = 1_700_000_000_000
SECOND = 1_000
KINDS = EventKinds()
JOIN = JoinConfig(click_window_ms=10 * SECOND, attribution_window_ms=60 * SECOND, early_ms=5 * SECOND)
LOG = LogConfig(length=14, slack=2, tags=4)
TIMES = TimeBounds(min_ms=10**12, max_future_ms=60_000)
INPUTS = (SERVED, IMPRESSIONS, CONVERSIONS)


class History:
    """Whatever is sent is stored and joined at once, unless a test says otherwise. Times are ms after T0."""

    def __init__(self, redis: Redis, join: JoinConfig = JOIN) -> None:
        self.redis = redis
        self.records: defaultdict[str, list[Record]] = defaultdict(list)
        self.join = join
        self.joiner = Joiner(redis, LOG, join)
        self.letters: Collection[tuple[str, int, int]] = ()
        self.passed: dict[tuple[str, int], int] = {}
        """How far ingest's group has come."""

    def stored(self, user: str = "u") -> bytes:
        """The bytes of the user's log."""
        value = self.redis.get(log_key(user))
        assert isinstance(value, bytes)
        return value

    def put(self, topic: str, value: bytes, at: int = 0) -> Record:
        record = Record(topic, 0, len(self.records[topic]), T0 + at, None, value, ())
        self.records[topic].append(record)
        return record

    def send(self, topic: str, message: Struct, at: int, *, ingest: bool = True) -> Record:
        record = self.put(topic, encode(TOPICS[topic], message), at)
        if ingest:
            self.ingest(record)
        return record

    def serve(self, response: str = "r", *, user: str = "u", items: str = "ab", at: int = 0) -> Record:
        served = Served(
            response_id=response,
            request_id=f"request of {response}",
            user=user,
            surface="feed",
            event_ms=T0 + at,
            log=LogRef(),
            features={},
            context={},
            items=[ServedItem(item=item) for item in items],
            plan="light",
            tier="light",
            model=ModelVersion(epoch=1, number=1),
        )
        return self.send(SERVED, served, at)

    def show(
        self,
        event: str,
        item: str = "a",
        *,
        user: str = "u",
        response: str = "r",
        at: int = 0,
        arrives: int | None = None,
        ingest: bool = True,
    ) -> Record:
        """arrives: when it reaches the broker, by default when it happens."""
        impression = Impression(
            event_id=event, user=user, response_id=response, item=item, position=0, event_ms=T0 + at
        )
        return self.send(IMPRESSIONS, impression, at if arrives is None else arrives, ingest=ingest)

    def act(
        self,
        event: str,
        names: str | None = "i",
        *,
        kind: str = "click",
        item: str | None = None,
        user: str = "u",
        at: int = SECOND,
        arrives: int | None = None,
        ingest: bool = True,
    ) -> Record:
        action = Conversion(
            event_id=event, user=user, kind=kind, item=item, impression_id=names, event_ms=T0 + at, value=2.0
        )
        return self.send(CONVERSIONS, action, at if arrives is None else arrives, ingest=ingest)

    def ingest(self, record: Record) -> None:
        fact = to_fact(record, KINDS, TIMES)
        (reply,) = self.joiner.apply([fact], {(record.topic, 0): record.offset + 1})
        self.deliver(reply.labels, record.timestamp_ms - T0)

    def deliver(self, labels: Collection[Label], at: int = 0) -> None:
        for label in labels:
            self.put(EXAMPLES, encode(TOPICS[EXAMPLES], to_example(label)), at)

    def sweep(self, at: int) -> None:
        """Closes the windows due, and delivers what they say."""
        closed = self.joiner.sweep(T0 + at, 1000)
        self.deliver([label for window in closed for label in window.labels], at)
        self.joiner.settle(closed)

    def events(self, *, unread: int = 0) -> Events:
        """unread: so many records of the end of each topic are not ingested, however long that was waited for."""
        frontier = {(topic, 0): len(self.records[topic]) - unread for topic in INPUTS}
        events = Events(self.letters, frontier, kinds=KINDS, times=TIMES)
        for topic in INPUTS:
            events.add_all(self.records[topic])
        events.settle(frontier, self.letters, self.passed)
        return events

    def logs(self, *, unread: int = 0, whole: bool = True, now: int = 3600 * SECOND) -> Section:
        logs = Logs(self.redis, self.events(unread=unread), LOG, T0 + now)
        logs.compare_all()
        return logs.section(events_whole=whole)

    def joins(
        self, *, unread: int = 0, whole: bool = True, now: int = 3600 * SECOND, came_since: int = 0, held: bool = False
    ) -> Section:
        """came_since: so many of the last examples lie behind the cut."""
        joins = Joins(self.join)
        behind = len(self.records[EXAMPLES]) - came_since
        for record in self.records[EXAMPLES][:behind]:
            joins.add(record)
        events = self.events(unread=unread)
        joins.compare(
            events,
            events.clock_bound(None),
            self.redis,
            T0 + now,
            read_on=lambda: self.records[EXAMPLES][behind:],
            catch_up=lambda: None,
            patience=Patience(0.0),
        )
        return joins.section(events_whole=whole, examples_whole=whole, held=held)


def counts(section: Section) -> dict[str, int]:
    """What is not zero."""
    return {line.name: line.count for line in section.lines if line.count}


def faults(section: Section) -> dict[str, tuple[str, ...]]:
    """Ids by the name of what is wrong."""
    return {line.name: line.ids for line in section.lines if line.count and line.verdict == "fault"}
