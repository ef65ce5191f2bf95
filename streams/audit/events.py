"""The events and served records of the topics, each once: what must be in the logs, and what the join was given."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping

import numpy as np

from feature_store.facts import ActionFact, Fact, ImpressionFact, ServedFact
from streams.audit.report import Section
from streams.config.recipe import EventKinds
from streams.errors import Refused
from streams.wire.event_time import TimeBounds
from streams.wire.record import Record
from streams.workers.ingest.events import to_fact

EventFact = ImpressionFact | ActionFact
RecordPlace = tuple[str, int, int]
"""Topic, partition and offset."""
NEVER_MS = 2**62


class Events:
    """Takes in the records of `ranking.served`, `ads.impressions` and `ads.conversions`, in this order."""

    def __init__(
        self,
        letters: Collection[RecordPlace],
        frontier: Mapping[tuple[str, int], int],
        *,
        kinds: EventKinds,
        times: TimeBounds,
    ) -> None:
        """frontier: by (topic, partition), the offset before which ingest has surely done all it has to do."""
        self._letters = set(letters)
        self._frontier = frontier
        self._kinds = kinds
        self._times = times
        self.served: dict[str, ServedFact] = {}
        """By response id, without their blobs."""
        self.of_user: defaultdict[str, dict[str, EventFact]] = defaultdict(dict)
        """By user and event id, as first delivered."""
        self.unsure: dict[str, RecordPlace] = {}
        """Response and event ids of what ingest may not have done yet, and where they are."""
        self._moments: list[tuple[int, int]] = []
        self._distinct = self._duplicates = self._refused = 0
        self._unburied: list[RecordPlace] = []
        """Records that must be refused and have no dead letter, whether or not they were read."""
        self._clashes: list[str] = []
        self._passed: list[str] = []
        self._not_read: list[str] = []

    def add_all(self, records: Iterable[Record]) -> None:
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        place = (record.topic, record.partition, record.offset)
        if place in self._letters:
            self._refused += 1
            return
        try:
            fact = to_fact(record, self._kinds, self._times)
        except Refused:
            self._unburied.append(place)
            return
        self._moments.append((min(fact.event_ms, record.timestamp_ms), record.timestamp_ms))
        if isinstance(fact, ServedFact):
            self._add_served(fact, place)
        else:
            self._add_event(fact, place)

    def settle(
        self,
        frontier: Mapping[tuple[str, int], int],
        letters: Collection[RecordPlace],
        passed: Mapping[tuple[str, int], int],
    ) -> None:
        """Says what has become of the records before the cut, all of which were added.

        Args:
            frontier: as it stands after ingest was waited for.
            letters: dead letters that were written since, up to that frontier.
            passed: by (topic, partition), the next offset of ingest's group at the cut.
        """
        self._frontier = frontier
        self._letters |= set(letters)
        self._forget({name for name, place in self.unsure.items() if place in self._letters})
        self._unburied = [place for place in self._unburied if place not in self._letters]
        self.unsure = {name: place for name, place in self.unsure.items() if not self._is_sure(place)}
        waiting = self.unsure | {_name(place): place for place in self._unburied if not self._is_sure(place)}
        for name, place in waiting.items():
            (self._passed if place[2] < passed.get(place[:2], 0) else self._not_read).append(name)

    def facts(self) -> Iterator[Fact]:
        """Each once; of one user in the order of the topics."""
        yield from self.served.values()
        for events in self.of_user.values():
            yield from events.values()

    def clock_bound(self, wall_lag_ms: int | None) -> "ClockBound":
        return ClockBound(self._moments, wall_lag_ms)

    def section(self, *, behind_open_transaction: int = 0) -> Section:
        section = Section("events")
        section.count("distinct", self._distinct)
        section.count("sent_again", self._duplicates)
        section.count("refused", self._refused)
        section.count("one_id_for_two_events", len(self._clashes), self._clashes)
        section.count("behind_open_transaction", behind_open_transaction)
        section.fault("passed_unread", self._passed)
        section.fault("not_read", self._not_read)
        unburied = [_name(place) for place in self._unburied if self._is_sure(place)]
        section.fault("refused_without_dead_letter", unburied)
        return section

    def _is_sure(self, place: RecordPlace) -> bool:
        return place[2] < self._frontier.get(place[:2], 0)

    def _forget(self, refused: set[str]) -> None:
        """Drops what was refused since it was added."""
        if not refused:
            return
        self._refused += len(refused)
        for name in refused & self.served.keys():
            del self.served[name]
        for mine in self.of_user.values():
            for name in refused & mine.keys():
                del mine[name]
                self._distinct -= 1
        for name in refused:
            del self.unsure[name]

    def _add_served(self, fact: ServedFact, place: RecordPlace) -> None:
        if fact.response_id not in self.served:
            self.served[fact.response_id] = ServedFact(fact.response_id, fact.user, fact.event_ms, fact.items, b"")
            if not self._is_sure(place):
                self.unsure[fact.response_id] = place

    def _add_event(self, fact: EventFact, place: RecordPlace) -> None:
        mine = self.of_user[fact.user]
        first = mine.get(fact.event_id)
        if first is None:
            mine[fact.event_id] = fact
            self._distinct += 1
            if not self._is_sure(place):
                self.unsure[fact.event_id] = place
            return
        self._duplicates += 1
        if self._is_sure(place):
            self.unsure.pop(fact.event_id, None)
        if first.record != fact.record or type(first) is not type(fact):
            self._clashes.append(fact.event_id)


def _name(place: RecordPlace) -> str:
    topic, partition, offset = place
    return f"{topic}[{partition}]@{offset}"


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
