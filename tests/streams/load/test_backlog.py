"""How far a trainer is behind, by what stands on the topics."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ranker.updates.changes import Changes
from ranker.updates.record import Open, Update, UpdateHeader, encode_open, encode_update
from streams.kafka.connection import Kafka
from streams.load.backlog import Backlog
from streams.local.stack import local_stack
from streams.wire.topics import EXAMPLES, UPDATES

SECONDS = 10.0


@pytest.fixture
def kafka(tmp_path: Path) -> Iterator[Kafka]:
    with local_stack(tmp_path, broker="memory") as stack:
        kafka = Kafka(stack.bootstrap, {})
        kafka.create_topics()
        yield kafka


def put(kafka: Kafka, topic: str, *values: bytes, partition: int = 0) -> None:
    producer = kafka.producer()
    for value in values:
        producer.produce(topic, value, partition=partition)
    assert producer.flush(10) == 0


def update(number: int, **offsets: int) -> bytes:
    header = UpdateHeader(
        epoch=1, number=number, previous=number - 1, digest="d", trainer="t",
        offsets={partition.removeprefix("p"): offset for partition, offset in offsets.items()},
    )  # fmt: skip
    (record,) = encode_update(Update(header, Changes({}, {})))
    return record


@pytest.mark.e2e
def test_it_is_what_the_newest_update_has_not_learned_in_seconds_of_what_came(kafka: Kafka) -> None:
    put(kafka, EXAMPLES, *[b"x"] * 4)
    put(kafka, UPDATES, update(1, p0=4))
    backlog = Backlog(kafka)
    assert backlog.behind_s(SECONDS) is None, "nothing came"
    put(kafka, EXAMPLES, *[b"x"] * 6)
    put(kafka, EXAMPLES, *[b"x"] * 14, partition=1)
    assert backlog.behind_s(SECONDS) is None, "nobody publishes"
    put(kafka, UPDATES, update(2, p0=10), update(3, p0=10, p1=9))
    assert backlog.behind_s(SECONDS) == pytest.approx(SECONDS * 5 / 20)
    put(kafka, UPDATES, update(4, p0=10, p1=14))
    assert backlog.behind_s(SECONDS) == 0
    put(kafka, UPDATES, encode_open(Open(epoch=2, digest="d", trainer="t", created_ms=0)))
    assert backlog.behind_s(SECONDS) is None, "a trainer has just begun"
