"""Following topics from where they end now, from outside of any group: for live views. Sees all partitions of each."""

import logging
from collections.abc import Iterable

from streams.kafka.connection import Kafka, topic_partitions, watermarks
from streams.kafka.gaps import GapWatch
from streams.wire.record import Record

log = logging.getLogger(__name__)


class Tail:
    """Hands out what comes to some topics; in order within a partition, in any order between them."""

    def __init__(self, kafka: Kafka, topics: Iterable[str]) -> None:
        """Raises StartError where a topic does not exist. What is produced after this returns is seen."""
        self._reader = kafka.reader(eof=False)
        ends = {(t, p): watermarks(self._reader, t, p)[1] for t in topics for p in kafka.partitions(t)}
        self._reader.assign(topic_partitions(ends))
        self._gaps = GapWatch(self._reader)
        self._gaps.start(ends)

    @property
    def missed(self) -> int:
        """Records that the broker had let go of before they were read."""
        return self._gaps.missed

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
            records.append(Record.of(message))
        self._gaps.see(records)
        return records

    def close(self) -> None:
        self._reader.close()
