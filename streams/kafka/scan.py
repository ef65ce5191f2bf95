"""Reading topics from beginning to end, from outside of any group: for audits, dead letters and views."""

import time
from collections.abc import Iterator, Mapping

from confluent_kafka import KafkaException, TopicPartition

from streams.errors import StreamError
from streams.kafka.connection import CONNECT_TIMEOUT_S, Kafka, watermarks
from streams.wire.record import Record

STALL_S = 15.0


def ends(kafka: Kafka, topic: str, *, uncommitted: bool = False) -> dict[int, tuple[int, int]]:
    """(first offset kept, next offset) of each partition; the next that is stable, unless `uncommitted`: an open
    transaction holds that back."""
    reader = kafka.reader(uncommitted=uncommitted)
    try:
        return {p: watermarks(reader, topic, p) for p in kafka.partitions(topic)}
    finally:
        reader.close()


def committed(kafka: Kafka, group: str, topic: str) -> dict[int, int]:
    """Next offset of each partition as the group has committed it; 0 where it has committed none."""
    reader = kafka.reader(group=group)
    try:
        places = [TopicPartition(topic, p) for p in kafka.partitions(topic)]
        return {place.partition: max(place.offset, 0) for place in reader.committed(places, timeout=CONNECT_TIMEOUT_S)}
    finally:
        reader.close()


def read_topic(
    kafka: Kafka,
    topic: str,
    since: Mapping[int, int] | None = None,
    until: Mapping[int, int] | None = None,
    *,
    uncommitted: bool = False,
) -> Iterator[Record]:
    """Every record that the broker keeps of the topic as it stands now; in order within each partition.

    since: by partition, the offset to begin at. until: the one to end before; partitions not named are left out.
    uncommitted: with the records of open and of aborted transactions.
    Raises StreamError if the broker stops handing records out before the end.
    """
    since = since or {}
    kept = {
        p: (max(low, since.get(p, 0)), high) for p, (low, high) in ends(kafka, topic, uncommitted=uncommitted).items()
    }
    if until is not None:
        kept = {p: (low, min(high, until[p])) for p, (low, high) in kept.items() if p in until}
    left = {p: high for p, (low, high) in kept.items() if high > low}
    if not left:
        return
    reader = kafka.reader(uncommitted=uncommitted)
    try:
        reader.assign([TopicPartition(topic, p, kept[p][0]) for p in left])
        heard = time.monotonic()
        while left:
            for message in reader.consume(1000, timeout=0.2):
                if (error := message.error()) is not None:
                    # The end of a partition: what is missing before it (control records) is not ours to wait for.
                    if error.name() == "_PARTITION_EOF":
                        left.pop(message.partition() or 0, None)
                        continue
                    raise KafkaException(error)
                heard = time.monotonic()
                record = Record.of(message)
                end = left.get(record.partition, 0)
                if record.offset + 1 >= end:
                    left.pop(record.partition, None)
                if record.offset < end:
                    yield record
            if left and time.monotonic() - heard > STALL_S:
                raise StreamError(f"{topic}: the broker handed out nothing for {STALL_S:.0f} s before the end")
    finally:
        reader.close()
