"""The cut of real topics: what lies before it, what a transaction holds back, and what the broker has let go of."""

from collections.abc import Iterator

import pytest
from confluent_kafka import Producer, TopicPartition

from benchmarks.lab.transactions import USERS, transaction
from streams.audit.source import Source
from streams.kafka.connection import Kafka
from streams.local.kafka import why_not
from streams.local.stack import LocalStack, local_stack
from streams.wire.topics import CONVERSIONS, DEAD_LETTERS, IMPRESSIONS, REQUESTS

pytestmark = pytest.mark.skipif(why_not() is not None, reason=f"transactions need a real Kafka: {why_not()}")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    with local_stack(tmp_path_factory.mktemp("stack"), broker="kafka") as stack:
        Kafka(stack.bootstrap, {}).create_topics()
        yield stack


@pytest.fixture
def kafka(stack: LocalStack) -> Kafka:
    return Kafka(stack.bootstrap, {})


def cut(kafka: Kafka) -> Source:
    source = Source(kafka)
    source.take_cut((CONVERSIONS, IMPRESSIONS, REQUESTS, DEAD_LETTERS), uncommitted=(REQUESTS,))
    return source


def count(source: Source, topic: str) -> int:
    return sum(1 for _ in source.read(topic))


def send(kafka: Kafka, topic: str, number: int) -> None:
    producer: Producer = kafka.producer()
    for _ in range(number):
        producer.produce(topic, b"{}", partition=0)
    assert producer.flush(30.0) == 0


def test_markers_and_aborted_records_are_no_losses(kafka: Kafka, stack: LocalStack) -> None:
    with transaction(stack.bootstrap, "abort"):
        held = cut(kafka)
        assert (count(held, CONVERSIONS), count(held, REQUESTS)) == (0, USERS)
        assert held.behind_open_transaction(CONVERSIONS) == USERS
    with transaction(stack.bootstrap, "commit"):
        pass
    source = cut(kafka)
    assert (count(source, CONVERSIONS), count(source, REQUESTS)) == (USERS, 2 * USERS)
    assert source.behind_open_transaction(CONVERSIONS, REQUESTS) == 0
    assert source.whole(CONVERSIONS, REQUESTS), source.let_go
    seen = source.committed_records(REQUESTS, dict.fromkeys(source.cut(REQUESTS), 0))
    assert len(seen) == USERS, "those of the aborted one are told apart"


def test_what_comes_after_the_cut_is_read_on_and_not_before(kafka: Kafka) -> None:
    source = cut(kafka)
    before = count(source, DEAD_LETTERS)
    send(kafka, DEAD_LETTERS, 3)
    assert count(source, DEAD_LETTERS) == before
    assert sum(1 for _ in source.read_on(DEAD_LETTERS)) == 3
    assert sum(1 for _ in source.read_on(DEAD_LETTERS)) == 0


def test_a_head_that_the_broker_has_deleted_is_said(kafka: Kafka) -> None:
    send(kafka, IMPRESSIONS, 5)
    source = cut(kafka)
    admin, before = kafka.admin(), TopicPartition(IMPRESSIONS, 0, 2)
    admin.delete_records([before])[before].result()
    for _ in source.read(IMPRESSIONS):
        pass
    assert source.let_go[IMPRESSIONS] == 2, "also where it is deleted after the cut was taken"
    assert not source.whole(IMPRESSIONS)
