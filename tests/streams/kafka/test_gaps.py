"""What a broker deleted before it was read is counted; what transactions leave among the offsets is not."""

from collections.abc import Iterator
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from streams.kafka.connection import Kafka
from streams.kafka.gaps import GapWatch
from streams.kafka.tail import Tail
from streams.kafka.update_reader import UpdateReader
from streams.local.kafka import why_not
from streams.local.stack import local_stack
from streams.runtime import metrics as metric
from streams.wire.record import Record
from streams.wire.topics import CONVERSIONS, DECISIONS, IMPRESSIONS, UPDATES

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(why_not() is not None, reason=f"the in-memory broker deletes nothing on order: {why_not()}"),
]


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    with local_stack(tmp_path_factory.mktemp("stack"), broker="kafka") as stack:
        kafka = Kafka(stack.bootstrap, {})
        kafka.create_topics()
        yield kafka


def send(kafka: Kafka, topic: str, count: int) -> None:
    producer = kafka.producer()
    for number in range(count):
        producer.produce(topic, str(number), partition=0)
    assert producer.flush(10) == 0


def send_in_transaction(kafka: Kafka, topic: str, count: int, *, commit: bool) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": uuid4().hex})
    producer.init_transactions()
    producer.begin_transaction()
    for number in range(count):
        producer.produce(topic, str(number), partition=0)
    producer.flush(10)
    if commit:
        producer.commit_transaction()
    else:
        producer.abort_transaction()


def delete_before(kafka: Kafka, topic: str, offset: int) -> None:
    """What retention does, at once."""
    admin = kafka.admin()  # kept, for its questions end with it
    for future in admin.delete_records([TopicPartition(topic, 0, offset)]).values():
        future.result(timeout=60.0)


def test_a_group_member_counts_what_retention_took(kafka: Kafka) -> None:
    consumer = kafka.reader()
    gaps = GapWatch(consumer)
    send(kafka, IMPRESSIONS, 30)
    delete_before(kafka, IMPRESSIONS, 12)
    before = missed(IMPRESSIONS)
    gaps.start({(IMPRESSIONS, 0): 5})
    consumer.assign([TopicPartition(IMPRESSIONS, 0, 5)])
    records = read(consumer, 18)
    gaps.see(records)
    assert records[0].offset == 12
    assert (gaps.missed, missed(IMPRESSIONS) - before) == (7, 7)
    consumer.close()


def test_a_partition_that_was_away_begins_anew(kafka: Kafka) -> None:
    """Another member has handled some of it meanwhile: no hole."""
    send(kafka, DECISIONS, 30)
    consumer = kafka.reader()
    gaps, place = GapWatch(consumer), (DECISIONS, 0)
    consumer.assign([TopicPartition(*place, 0)])
    records = read(consumer, 30)
    gaps.start({place: 0})
    gaps.see(records[:5])
    delete_before(kafka, DECISIONS, 12)
    gaps.drop([place])
    gaps.start({place: 20})
    gaps.see(records[20:])
    assert gaps.missed == 0
    consumer.close()


def test_markers_and_aborted_records_are_none(kafka: Kafka) -> None:
    consumer = kafka.reader()
    gaps = GapWatch(consumer)
    send(kafka, CONVERSIONS, 3)
    send_in_transaction(kafka, CONVERSIONS, 4, commit=True)
    send_in_transaction(kafka, CONVERSIONS, 5, commit=False)
    send(kafka, CONVERSIONS, 2)
    gaps.start({(CONVERSIONS, 0): 0})
    consumer.assign([TopicPartition(CONVERSIONS, 0, 0)])
    records = read(consumer, 9)
    gaps.see(records)
    assert [r.offset for r in records] == [0, 1, 2, 3, 4, 5, 6, 14, 15]
    assert gaps.missed == 0
    consumer.close()


def test_readers_outside_of_groups_count_too(kafka: Kafka) -> None:
    send(kafka, UPDATES, 10)
    delete_before(kafka, UPDATES, 4)
    updates, before = UpdateReader(kafka, start=1), missed(UPDATES)
    assert [r.offset for r in take(updates, 6)] == [4, 5, 6, 7, 8, 9]
    assert missed(UPDATES) - before == 3
    updates.close()


def test_a_live_view_counts_no_markers(kafka: Kafka) -> None:
    tail = Tail(kafka, [CONVERSIONS])
    send_in_transaction(kafka, CONVERSIONS, 1, commit=True)
    send_in_transaction(kafka, CONVERSIONS, 1, commit=True)
    records = take(tail, 2)
    assert len(records) == 2
    assert records[1].offset - records[0].offset == 2
    assert tail.missed == 0
    tail.close()


def missed(topic: str) -> float:
    value: float = metric.RECORDS_MISSED.labels(topic)._value.get()
    return value


def take(reader: Tail | UpdateReader, count: int) -> list[Record]:
    records: list[Record] = []
    while len(records) < count:
        records += reader.poll(100, timeout_s=10.0)
    return records


def read(consumer: Consumer, count: int) -> list[Record]:
    records: list[Record] = []
    while len(records) < count:
        messages = consumer.consume(count - len(records), timeout=10.0)
        records += [Record.of(message) for message in messages if message.error() is None]
    return records
