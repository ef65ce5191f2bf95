"""Following topics from where they end now, from outside of any group: for live views. Sees all partitions of each."""

import logging
from collections.abc import Iterable

from confluent_kafka import TopicPartition

from streams.kafka import Kafka, watermarks
from streams.record import Record

log = logging.getLogger(__name__)


class Tail:
    """Hands out what comes to some topics; in order within a partition, in any order between them."""

    def __init__(self, kafka: Kafka, topics: Iterable[str]) -> None:
        """Raises StartError where a topic does not exist. What is produced after this returns is seen."""
        self._reader = kafka.reader(eof=False)
        ends = {(t, p): watermarks(self._reader, t, p)[1] for t in topics for p in kafka.partitions(t)}
        self._reader.assign([TopicPartition(topic, p, end) for (topic, p), end in ends.items()])
        self._next = ends
        self.missed = 0
        """Records that the broker had let go of before they were read."""

    def poll(self, limit: int = 5_000, timeout_s: float = 0.0) -> list[Record]:
        """What has come, at most `limit` records; waits for the first up to `timeout_s`."""
        first = self._reader.poll(timeout_s)
        if first is None:
            return []
        records: list[Record] = []
        for message in (first, *self._reader.consume(limit - 1, timeout=0)):
            if (error := message.error()) is not None:
                log.warning("kafka: %s", error.str())
                continue
            record = Record.of(message)
            place = (record.topic, record.partition)
            self.missed += record.offset - self._next[place]
            self._next[place] = record.offset + 1
            records.append(record)
        return records

    def close(self) -> None:
        self._reader.close()
