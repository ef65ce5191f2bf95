"""A topic that is made anew behind a client's back: noticed, where the client itself would wait for ever."""

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from streams.errors import StartError, StreamError
from streams.kafka.connection import Kafka
from streams.kafka.loop import BaseWorker, Pace, run
from streams.kafka.outbox import Outbox
from streams.kafka.topic_ids import TopicIds
from streams.local.kafka import why_not
from streams.local.stack import LocalStack, local_stack
from streams.wire.record import Record, next_offsets
from streams.wire.topics import IMPRESSIONS, TOPICS

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(why_not() is not None, reason=f"needs a broker with topic ids: {why_not()}"),
]
PATIENCE_S = 60.0


@pytest.fixture
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    with local_stack(tmp_path_factory.mktemp("stack"), broker="kafka") as stack:
        yield stack


class Reader(BaseWorker):
    """Counts, and stops after so many records."""

    def __init__(self, outbox: Outbox, stop: threading.Event, wanted: int) -> None:
        self.read, self._outbox, self._stop, self._wanted = 0, outbox, stop, wanted

    def handle(self, records: Sequence[Record]) -> None:
        self.read += len(records)
        self._outbox.seal(next_offsets(records))

    def tick(self) -> None:
        if self.read >= self._wanted:
            self._stop.set()


def test_a_worker_ends_and_reads_all_of_the_new_topic_when_it_is_started_again(stack: LocalStack) -> None:
    """The broker is restarted in between: the new topic's leader epoch is lower than the old one's."""
    kafka = Kafka(stack.bootstrap, {})
    kafka.create_topics([TOPICS[IMPRESSIONS]])
    send(kafka, 50)
    stack.broker.kill()
    stack.broker.restart()
    changed = threading.Timer(8.0, make_anew, (kafka,))
    changed.start()
    with pytest.raises(StreamError, match=r"ads\.impressions was deleted and made again"):
        read(kafka, 51)
    changed.join()
    assert read(kafka, 20) == 20


def test_a_topic_that_stays_and_a_broker_that_is_away_are_no_change(stack: LocalStack) -> None:
    kafka = Kafka(stack.bootstrap, {})
    kafka.create_topics([TOPICS[IMPRESSIONS]])
    ids = TopicIds(kafka, [IMPRESSIONS])
    check_for(ids, 6.0)
    stack.broker.kill()
    check_for(ids, 6.0)
    stack.broker.restart()
    check_for(ids, 6.0)
    kafka.create_topics()
    make_anew(kafka)
    with pytest.raises(StreamError):
        check_for(ids, PATIENCE_S)


def test_a_topic_that_is_not_there_ends_it(stack: LocalStack) -> None:
    kafka = Kafka(stack.bootstrap, {})
    with pytest.raises(StartError, match=r"topic ads\.impressions does not exist; create all with"):
        TopicIds(kafka, [IMPRESSIONS])
    kafka.create_topics()
    ids, admin = TopicIds(kafka, [IMPRESSIONS]), kafka.admin()
    admin.delete_topics([IMPRESSIONS], operation_timeout=30)[IMPRESSIONS].result(60)
    with pytest.raises(StreamError, match=r"ads\.impressions was deleted"):
        check_for(ids, PATIENCE_S)


def test_the_in_memory_broker_is_asked_nothing(tmp_path: Path) -> None:
    with local_stack(tmp_path, broker="memory") as stack:
        ids = TopicIds(Kafka(stack.bootstrap, {}), [IMPRESSIONS])
        check_for(ids, 0.1)
        assert ids.member_name("one") == TopicIds(Kafka(stack.bootstrap, {}), []).member_name("one")


def check_for(ids: TopicIds, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ids.check()
        time.sleep(0.05)


def read(kafka: Kafka, wanted: int) -> int:
    stop, outbox = threading.Event(), Outbox(kafka.producer())
    reader = Reader(outbox, stop, wanted)
    killer = threading.Timer(PATIENCE_S, stop.set)
    killer.start()
    try:
        ids = TopicIds(kafka, [IMPRESSIONS])
        consumer = kafka.group_consumer("readers", "one")
        run(
            consumer, [IMPRESSIONS], reader, outbox, Pace(batch_max=100, idle_s=0.05), check_topics=ids.check, stop=stop
        )
    finally:
        killer.cancel()
    return reader.read


def send(kafka: Kafka, number: int) -> None:
    producer = kafka.producer()
    for i in range(number):
        producer.produce(IMPRESSIONS, b"{}", str(i))
    assert producer.flush(10) == 0


def make_anew(kafka: Kafka) -> None:
    admin: AdminClient = kafka.admin()
    admin.delete_topics([IMPRESSIONS], operation_timeout=PATIENCE_S)[IMPRESSIONS].result(PATIENCE_S)
    while IMPRESSIONS in admin.list_topics(timeout=10.0).topics:
        time.sleep(0.02)
    kafka.create_topics([TOPICS[IMPRESSIONS]])
    send(kafka, 20)
