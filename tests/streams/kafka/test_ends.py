"""Asking where partitions end, on the broker built into librdkafka."""

import time
from collections.abc import Iterator

import pytest

from streams.kafka.connection import Kafka
from streams.kafka.ends import Ends, EndsQuestion
from streams.local.memory_broker import memory_server
from streams.local.server import Server

TOPIC = "things"


@pytest.fixture
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = memory_server(tmp_path_factory.mktemp("broker"))
    server.start()
    yield server
    server.stop()


def wait_for(question: EndsQuestion, timeout_s: float = 10.0) -> Ends | None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        ends = question.answer()
        if ends is not None or not question.open:
            return ends
        time.sleep(0.01)
    raise TimeoutError


def test_the_answer_is_the_next_offset_of_each_partition_and_comes_once(broker: Server) -> None:
    kafka = Kafka(broker.address, {})
    producer = kafka.producer()
    for _ in range(3):
        producer.produce(TOPIC, b"x", partition=1)
    assert producer.flush(10.0) == 0
    question = EndsQuestion(kafka.admin())
    ends = None
    for _ in range(5):  # on a busy machine the first question may come before the connection is there
        before_ms = int(time.time() * 1000)
        question.ask([(TOPIC, 0), (TOPIC, 1)])
        asked_ms = int(time.time() * 1000)
        ends = wait_for(question)
        if ends is not None:
            break
    assert ends is not None
    assert ends.offsets == {(TOPIC, 0): 0, (TOPIC, 1): 3}
    assert before_ms <= ends.asked_ms <= asked_ms
    assert (question.answer(), question.open) == (None, False)


def test_without_a_broker_there_is_no_answer_and_one_may_ask_again(broker: Server) -> None:
    admin = Kafka(broker.address, {}).admin()
    broker.stop()
    question = EndsQuestion(admin)
    for _ in range(2):
        question.ask([(TOPIC, 0)])
        assert question.open
        assert wait_for(question) is None


def test_of_no_partitions_nothing_is_asked(broker: Server) -> None:
    question = EndsQuestion(Kafka(broker.address, {}).admin())
    question.ask([])
    assert (question.open, question.answer()) == (False, None)
