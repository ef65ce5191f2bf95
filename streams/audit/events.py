"""The events and served records of the topics, each once: what must be in the logs, and what the join was given."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping

import numpy as np

from feature_store.facts import ActionFact, Fact, ImpressionFact, ServedFact
from streams.audit.report import Section
from streams.errors import Refused
from streams.events import EventKinds, to_fact
from streams.record import Record

EventFact = ImpressionFact | ActionFact
NEVER_MS = 2**62


class Events:
    """Takes in the records of `ranking.served`, `ads.impressions` and `ads.conversions`, in this order."""

    def __init__(
        self,
        letters: Collection[tuple[str, int, int]],
        frontier: Mapping[tuple[str, int], int],
        *,
        kinds: EventKinds,
        max_future_ms: int,
    ) -> None:
        """frontier: by (topic, partition), the offset before which ingest has surely done all it has to do."""
        self._letters = letters
        self._frontier = frontier
        self._kinds = kinds
        self._max_future_ms = max_future_ms
        self.served: dict[str, ServedFact] = {}
        """By response id, without their blobs."""
        self.of_user: defaultdict[str, dict[str, EventFact]] = defaultdict(dict)
        """By user and event id, as first delivered."""
        self.unsure: set[str] = set()
        """Response and event ids of what ingest may not have done yet."""
        self._moments: list[tuple[int, int]] = []
        self._distinct = self._duplicates = self._refused = 0
        self._unburied: list[str] = []
        self._clashes: list[str] = []

    def add_all(self, records: Iterable[Record]) -> None:
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        sure = record.offset < self._frontier.get((record.topic, record.partition), 0)
        if (record.topic, record.partition, record.offset) in self._letters:
            self._refused += 1
            return
        try:
            fact = to_fact(record, self._kinds, self._max_future_ms)
        except Refused:
            if sure:
                self._unburied.append(str(record))
            return
        self._moments.append((min(fact.event_ms, record.timestamp_ms), record.timestamp_ms))
        if isinstance(fact, ServedFact):
            self._add_served(fact, sure)
        else:
            self._add_event(fact, sure)

    def facts(self) -> Iterator[Fact]:
        """Each once; of one user in the order of the topics."""
        yield from self.served.values()
        for events in self.of_user.values():
            yield from events.values()

    def clock_bound(self, wall_lag_ms: int | None) -> "ClockBound":
        return ClockBound(self._moments, wall_lag_ms)

    def section(self) -> Section:
        section = Section("events")
        section.count("distinct", self._distinct)
        section.count("sent_again", self._duplicates)
        section.count("refused", self._refused)
        section.count("not_yet_read", sum(name in self.unsure for mine in self.of_user.values() for name in mine))
        section.count("one_id_for_two_events", len(self._clashes), self._clashes)
        section.fault("refused_without_dead_letter", self._unburied)
        return section

    def _add_served(self, fact: ServedFact, sure: bool) -> None:
        if fact.response_id not in self.served:
            self.served[fact.response_id] = ServedFact(fact.response_id, fact.user, fact.event_ms, fact.items, b"")
            if not sure:
                self.unsure.add(fact.response_id)

    def _add_event(self, fact: EventFact, sure: bool) -> None:
        mine = self.of_user[fact.user]
        first = mine.get(fact.event_id)
        if first is None:
            mine[fact.event_id] = fact
            self._distinct += 1
            if not sure:
                self.unsure.add(fact.event_id)
            return
        self._duplicates += 1
        if first.record != fact.record or type(first) is not type(fact):
            self._clashes.append(fact.event_id)


class ClockBound:
    """How early the event clock of the join can have passed a time.

    The clock stands nowhere that no record, and not the wall clock either, has been. So an event that reached the
    broker before its window's end can have been passed was read in time, whatever the order among partitions.
    """

    def __init__(self, moments: list[tuple[int, int]], wall_lag_ms: int | None) -> None:
        """moments: (event time, broker timestamp) of every record, the first no later than the second.
        wall_lag_ms: None where the wall moves nothing."""
        array = np.array(sorted(moments), dtype=np.int64).reshape(-1, 2)
        self._event_ms = array[:, 0]
        self._earliest_ms = np.minimum.accumulate(array[::-1, 1])[::-1]
        self._wall_lag_ms = wall_lag_ms

    def passed_ms(self, event_ms: int) -> int:
        """Broker time before which the clock cannot have reached event_ms; NEVER_MS if it cannot have yet."""
        place = int(np.searchsorted(self._event_ms, event_ms))
        by_record = int(self._earliest_ms[place]) if place < len(self._earliest_ms) else NEVER_MS
        return by_record if self._wall_lag_ms is None else min(by_record, event_ms + self._wall_lag_ms)
