"""The topics as an audit reads them: each up to the cut, then on for what the cut leaves open."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from confluent_kafka import Consumer

from streams.kafka.connection import Kafka, watermarks
from streams.kafka.dead_letters import letter_place
from streams.kafka.scan import committed, read_topic
from streams.wire.record import Record
from streams.wire.topics import DEAD_LETTERS

Place = tuple[str, int]
"""Topic and partition."""


@dataclass(frozen=True, slots=True)
class Span:
    """A partition at the cut. Offsets are not records: markers of transactions have some, and so have aborted ones."""

    stable: int
    """Before it, every transaction has ended."""
    end: int


class Source:
    """The cut is taken first. Nothing behind it is judged; what comes since only settles what the cut leaves open."""

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self._askers: dict[bool, Consumer] = {}
        self._uncommitted: frozenset[str] = frozenset()
        self._cut: dict[Place, Span] = {}
        self._next: dict[Place, int] = {}
        self._last: dict[Place, int] = {}
        self.let_go: dict[str, int] = {}
        """Offsets at the beginning of each topic read whose records the broker no longer had."""

    def take_cut(self, topics: Iterable[str], *, uncommitted: Collection[str] = ()) -> None:
        """
        Args:
            topics: effects before their causes. Whatever an effect before the cut is of then lies before it, too.
            uncommitted: those whose readers do not wait for transactions to end.
        """
        self._uncommitted = frozenset(uncommitted)
        for topic in topics:
            known = self._ends(topic, uncommitted=True)
            for partition, (_, stable) in self._ends(topic).items():  # later: it is below only where one is open
                end = known[partition][1]
                self._cut[topic, partition] = Span(min(stable, end), end)
        self._next = {place: self._end(place) for place in self._cut}

    def read(self, topic: str) -> Iterator[Record]:
        """All that is there of it before the cut."""
        heads: dict[int, int] = {}
        for record in self._read(topic, until=self.cut(topic), uncommitted=topic in self._uncommitted):
            heads.setdefault(record.partition, record.offset)
            self._last[topic, record.partition] = record.offset + 1
            yield record
        self.let_go[topic] = self._gone(topic, heads)

    def read_on(self, topic: str) -> Iterator[Record]:
        """What has come since this topic was read last."""
        since = {p: offset for (name, p), offset in self._next.items() if name == topic}
        for record in self._read(topic, since, uncommitted=topic in self._uncommitted):
            self._next[topic, record.partition] = record.offset + 1
            yield record

    def topics(self, prefix: str) -> list[str]:
        """Names of the topics there that begin so."""
        return sorted(name for name in self._kafka.admin().list_topics(timeout=10.0).topics if name.startswith(prefix))

    def whole(self, *topics: str) -> bool:
        """Whether the broker still had every record of these when they were read."""
        return not any(self.let_go.get(topic) for topic in topics)

    def cut(self, topic: str) -> dict[int, int]:
        """The offset of the cut in each partition."""
        return {p: self._end((name, p)) for name, p in self._cut if name == topic}

    def wanted(self, *topics: str) -> dict[Place, int]:
        """By place, the offset behind the last record before the cut: whoever has read all of it stands there."""
        return {place: offset for place, offset in self._last.items() if place[0] in topics}

    def stable(self, topic: str) -> dict[Place, int]:
        return {place: span.stable for place, span in self._cut.items() if place[0] == topic}

    def behind_open_transaction(self, *topics: str) -> int:
        """Offsets that are held back by a transaction that was open at the cut."""
        return sum(span.end - span.stable for place, span in self._cut.items() if place[0] in topics)

    def committed_records(self, topic: str, since: Mapping[int, int]) -> set[tuple[str, int, int]]:
        """Places of the topic's records from `since` to the stable end that no transaction holds back or took back."""
        until = {p: self._cut[topic, p].stable for p in since}
        return {(r.topic, r.partition, r.offset) for r in self._read(topic, since, until)}

    def committed(self, group: str, *topics: str) -> dict[Place, int]:
        """Next offset by place as the group has committed it; 0 where it has not."""
        return {
            (topic, partition): offset
            for topic in topics
            for partition, offset in committed(self._kafka, group, topic).items()
        }

    def letters(self, *, on: bool = False) -> set[tuple[str, int, int]]:
        """(topic, partition, offset) of every record in the dead-letter topic; `on`: of what has come since."""
        records = self.read_on(DEAD_LETTERS) if on else self.read(DEAD_LETTERS)
        return {place for record in records if (place := letter_place(record)) is not None}

    def _end(self, place: Place) -> int:
        span = self._cut[place]
        return span.end if place[0] in self._uncommitted else span.stable

    def _gone(self, topic: str, heads: dict[int, int]) -> int:
        """By the first offsets kept, which may have moved on while the topic was read. A partition kept from its first
        offset on, of which that has no record, has lost its head to compaction; or to a transaction taken back, which a
        look at the uncommitted records tells apart."""
        firsts = {p: first for p, (first, _) in self._ends(topic).items() if (topic, p) in self._cut}
        bare = {
            p: end
            for p, end in self.cut(topic).items()
            if firsts.get(p) == 0 and end > 0 and heads.get(p, end) > 0
        }  # fmt: skip
        if bare:
            found: dict[int, int] = {}
            for record in self._read(topic, until=bare, uncommitted=True):
                found.setdefault(record.partition, record.offset)
                if found.keys() == bare.keys():
                    break
            firsts |= {p: found.get(p, end) for p, end in bare.items()}
        return sum(firsts.values())

    def _ends(self, topic: str, *, uncommitted: bool = False) -> dict[int, tuple[int, int]]:
        """(first offset kept, next offset) of each partition, as `streams.kafka.scan.ends`. Asked so often that
        a client of each kind is kept for it."""
        if uncommitted not in self._askers:
            self._askers[uncommitted] = self._kafka.reader(uncommitted=uncommitted)
        return {p: watermarks(self._askers[uncommitted], topic, p) for p in self._kafka.partitions(topic)}

    def _read(
        self,
        topic: str,
        since: Mapping[int, int] | None = None,
        until: Mapping[int, int] | None = None,
        *,
        uncommitted: bool = False,
    ) -> Iterator[Record]:
        return read_topic(self._kafka, topic, since, until, uncommitted=uncommitted)
