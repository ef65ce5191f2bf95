"""Reading topics from beginning to end, from outside of any group: for audits, dead letters and views."""

import time
from collections.abc import Iterator, Mapping

from confluent_kafka import KafkaException, TopicPartition

from streams.errors import StreamError
from streams.kafka import CONNECT_TIMEOUT_S, Kafka, watermarks
from streams.record import Record

STALL_S = 15.0


def ends(kafka: Kafka, topic: str) -> dict[int, tuple[int, int]]:
    """(first offset kept, next offset) of each partition."""
    reader = kafka.reader()
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


def read_topic(kafka: Kafka, topic: str, since: Mapping[int, int] | None = None) -> Iterator[Record]:
    """Every record that the broker keeps of the topic as it stands now; in order within each partition.

    since: by partition, the offset to begin at.
    Raises StreamError if the broker stops handing records out before the end.
    """
    since = since or {}
    kept = {p: (max(low, since.get(p, 0)), high) for p, (low, high) in ends(kafka, topic).items()}
    spans = {p: span for p, span in kept.items() if span[1] > span[0]}
    if not spans:
        return
    reader = kafka.reader()
    try:
        reader.assign([TopicPartition(topic, p, low) for p, (low, _) in spans.items()])
        left = {p: high for p, (_, high) in spans.items()}
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
                if record.offset >= left.get(record.partition, 0):
                    continue  # came after the count was taken
                if record.offset + 1 == left[record.partition]:
                    del left[record.partition]
                yield record
            if time.monotonic() - heard > STALL_S:
                raise StreamError(f"{topic}: the broker handed out nothing for {STALL_S:.0f} s before the end")
    finally:
        reader.close()
