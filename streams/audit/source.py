"""The topics as an audit reads them: whole, and once more for what came meanwhile. Counts what the broker let go."""

from collections.abc import Iterator

from streams.dead_letters import letter_place
from streams.kafka import Kafka
from streams.record import Record
from streams.scan import committed, ends, read_topic
from streams.topics import DEAD_LETTERS

Place = tuple[str, int]
"""Topic and partition."""


class Source:
    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self._next: dict[Place, int] = {}
        self.let_go: dict[str, int] = {}
        """Records of each topic read that the broker no longer had."""

    def read(self, topic: str) -> Iterator[Record]:
        """All that is there now."""
        missing = {partition: high for partition, (_, high) in ends(self._kafka, topic).items()}
        self._next |= {(topic, partition): high for partition, high in missing.items()}
        for record in read_topic(self._kafka, topic):
            after = record.offset + 1
            place = (topic, record.partition)
            if after > self._next[place]:  # it came since the ends were asked for
                missing[record.partition] += after - self._next[place]
                self._next[place] = after
            missing[record.partition] -= 1
            yield record
        self.let_go[topic] = sum(missing.values())

    def read_on(self, topic: str) -> Iterator[Record]:
        """What has come since this topic was read last."""
        since = {partition: offset for (name, partition), offset in self._next.items() if name == topic}
        for record in read_topic(self._kafka, topic, since):
            self._next[topic, record.partition] = record.offset + 1
            yield record

    def whole(self, *topics: str) -> bool:
        """Whether the broker still had every record of these when they were read."""
        return not any(self.let_go.get(topic) for topic in topics)

    def ends(self, topic: str) -> dict[int, int]:
        """Next offset of each partition, as the topic was read."""
        return {partition: offset for (name, partition), offset in self._next.items() if name == topic}

    def committed(self, group: str, *topics: str) -> dict[Place, int]:
        """Next offset by place as the group has committed it; 0 where it has not."""
        found = {}
        for topic in topics:
            for partition, offset in committed(self._kafka, group, topic).items():
                found[topic, partition] = offset
        return found

    def topics(self, prefix: str) -> list[str]:
        """Names of the topics there that begin so."""
        return sorted(name for name in self._kafka.admin().list_topics(timeout=10.0).topics if name.startswith(prefix))

    def letters(self) -> frozenset[tuple[str, int, int]]:
        """(topic, partition, offset) of every record in the dead-letter topic."""
        return frozenset(place for record in self.read(DEAD_LETTERS) if (place := letter_place(record)) is not None)
