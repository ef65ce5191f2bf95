"""The outbox: what may be committed, and when. Faults that a broker cannot be made to show are scripted."""

from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError, TopicPartition

from streams.errors import DeliveryFailed
from streams.kafka.outbox import Outbox


class ScriptedProducer:
    """Acknowledges what it is told to."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes, int, Callable[..., None]]] = []
        self.full = 0

    def produce(
        self, topic: str, value: bytes, key: Any, partition: int, *, on_delivery: Callable[..., None], headers: Any
    ) -> None:
        if self.full:
            self.full -= 1
            raise BufferError
        self.sent.append((topic, value, partition, on_delivery))

    def poll(self, timeout: float) -> int:
        return 0

    def flush(self, timeout: float) -> int:
        for number in range(len(self.sent)):
            self.acknowledge(number)
        return 0

    def acknowledge(self, number: int, error: KafkaError | None = None) -> None:
        self.sent[number][3](error, _Delivered(number))
        self.sent[number] = (*self.sent[number][:3], lambda *_: None)


class _Delivered:
    def __init__(self, offset: int) -> None:
        self._offset = offset

    def offset(self) -> int:
        return self._offset


class ScriptedConsumer:
    def __init__(self) -> None:
        self.commits: list[dict[int, int]] = []

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> None:
        self.commits.append({p.partition: p.offset for p in offsets})


@pytest.fixture
def producer() -> ScriptedProducer:
    return ScriptedProducer()


@pytest.fixture
def consumer() -> Any:
    return ScriptedConsumer()


def outbox_of(producer: Any) -> Outbox:
    return Outbox(producer, commit_every_s=0.0)


def test_nothing_is_committed_before_its_acknowledgement(producer: ScriptedProducer, consumer: Any) -> None:
    outbox = outbox_of(producer)
    outbox.send("t", b"a")
    outbox.send("t", b"b")
    outbox.seal({("in", 0): 5})
    outbox.commit(consumer)
    producer.acknowledge(0)
    outbox.commit(consumer)
    assert consumer.commits == []
    producer.acknowledge(1)
    outbox.commit(consumer)
    assert consumer.commits == [{0: 5}]
    assert outbox.newest == {"t": 1}


def test_a_later_batch_waits_for_an_earlier_one(producer: ScriptedProducer, consumer: Any) -> None:
    outbox = outbox_of(producer)
    outbox.send("t", b"a")
    outbox.seal({("in", 0): 5})
    outbox.send("t", b"b")
    outbox.seal({("in", 0): 9, ("in", 1): 2})
    producer.acknowledge(1)
    outbox.commit(consumer)
    assert consumer.commits == []
    producer.acknowledge(0)
    outbox.commit(consumer)
    assert consumer.commits == [{0: 9, 1: 2}]


def test_commits_are_gathered_until_their_time_comes_or_the_worker_ends(
    producer: ScriptedProducer, consumer: Any
) -> None:
    outbox = Outbox(producer, commit_every_s=3_600.0)  # type: ignore[arg-type]
    for offset in (1, 2, 3):
        outbox.seal({("in", 0): offset, ("in", offset): offset})
        outbox.commit(consumer)
    assert consumer.commits == [{0: 1, 1: 1}]
    assert outbox.drain(consumer, 1.0)
    assert consumer.commits == [{0: 1, 1: 1}, {0: 3, 2: 2, 3: 3}]
    assert outbox.drain(consumer, 1.0)
    assert len(consumer.commits) == 2


def test_what_follows_an_acknowledgement_comes_before_the_commit(producer: ScriptedProducer, consumer: Any) -> None:
    outbox = outbox_of(producer)
    seen: list[int] = []
    outbox.send("t", b"a")
    outbox.seal({("in", 0): 5}, then=lambda: seen.append(len(consumer.commits)))
    outbox.commit(consumer)
    assert seen == []
    producer.acknowledge(0)
    outbox.commit(consumer)
    assert seen == [0]


def test_a_failed_delivery_stops_the_worker_uncommitted(producer: ScriptedProducer, consumer: Any) -> None:
    outbox = outbox_of(producer)
    outbox.send("t", b"a")
    outbox.seal({("in", 0): 5})
    producer.acknowledge(0, KafkaError(KafkaError._MSG_TIMED_OUT))
    with pytest.raises(DeliveryFailed, match="t: "):
        outbox.commit(consumer)
    with pytest.raises(DeliveryFailed):
        outbox.drain(consumer, 1.0)
    assert consumer.commits == []


def test_what_is_sent_instead_holds_the_batch(producer: ScriptedProducer, consumer: Any) -> None:
    """The batch is committed once what took the failed record's place is acknowledged, and no later one before."""
    outbox = outbox_of(producer)
    reasons: list[str] = []

    def instead(reason: str) -> None:
        reasons.append(reason)
        outbox.send("letters", b"a")

    outbox.send("t", b"a", undelivered=instead)
    outbox.seal({("in", 0): 5})
    outbox.send("t", b"b")
    producer.acknowledge(0, KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
    assert len(reasons) == 1
    assert [topic for topic, *_ in producer.sent] == ["t", "t", "letters"]
    outbox.commit(consumer)
    assert consumer.commits == []
    producer.acknowledge(2)
    outbox.commit(consumer)
    assert consumer.commits == [{0: 5}]
    outbox.seal({("in", 0): 6})
    outbox.commit(consumer)
    assert consumer.commits == [{0: 5}]
    producer.acknowledge(1)
    outbox.commit(consumer)
    assert consumer.commits == [{0: 5}, {0: 6}]


def test_a_discarded_batch_is_not_committed(producer: ScriptedProducer, consumer: Any) -> None:
    outbox = outbox_of(producer)
    outbox.send("t", b"a")
    outbox.discard()
    outbox.seal({("in", 0): 1})
    assert outbox.drain(consumer, 1.0)
    assert consumer.commits == [{0: 1}]


def test_a_full_queue_is_waited_for(producer: ScriptedProducer, consumer: Any) -> None:
    outbox = outbox_of(producer)
    producer.full = 3
    outbox.send("t", b"a")
    outbox.seal({("in", 0): 1})
    assert outbox.drain(consumer, 1.0)
    assert len(producer.sent) == 1
    assert consumer.commits == [{0: 1}]


def test_topics_of_one_partition_are_sent_there(producer: ScriptedProducer) -> None:
    outbox = outbox_of(producer)
    outbox.send("model.updates", b"a")
    outbox.send("ranking.responses", b"a", key="u")
    assert [sent[2] for sent in producer.sent] == [0, -1]
