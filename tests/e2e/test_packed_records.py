"""Records that are small on the wire and huge in memory: refused by the broker, or else survived by the worker."""

import time
from collections.abc import Iterator

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType  # type: ignore[attr-defined]

from streams.kafka.connection import Kafka
from streams.local.kafka import why_not
from streams.operations import dlq
from streams.wire.topics import CONVERSIONS, TOPICS
from tests.e2e.running import House, check_alive, running

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(why_not() is not None, reason=f"only a real Kafka packs and unpacks: {why_not()}"),
]

HUGE = 30_000_000


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with running(tmp_path_factory.mktemp("packed"), ["ingest"], broker="kafka") as up:
        yield up
        check_alive(up)


def produced(kafka: Kafka, topic: str, codec: str) -> str | None:
    """What the broker says to a record of zeros."""
    answers: list[str | None] = []
    producer = Producer(
        {"bootstrap.servers": kafka.bootstrap, "compression.type": codec, "message.max.bytes": 2 * HUGE}
    )
    producer.produce(
        topic, bytes(HUGE), "u", on_delivery=lambda error, _: answers.append(error.name() if error else None)
    )
    producer.flush(30)
    return answers[0]


@pytest.mark.parametrize("codec", ["gzip", "lz4", "zstd", "snappy"])
def test_the_broker_refuses_what_would_be_too_large_unpacked(house: House, codec: str) -> None:
    for topic in (t.name for t in TOPICS.values() if t.unpacked):
        assert produced(house.kafka, topic, codec) == "MSG_SIZE_TOO_LARGE"


def test_on_a_topic_without_that_setting_it_is_a_dead_letter_and_no_crash(house: House) -> None:
    kafka = house.kafka
    packed = ConfigEntry("compression.type", "producer", incremental_operation=AlterConfigOpType.SET)
    admin = kafka.admin()
    topic = ConfigResource(ResourceType.TOPIC, CONVERSIONS, incremental_configs=[packed])
    for future in admin.incremental_alter_configs([topic]).values():
        future.result(timeout=10)
    assert produced(kafka, CONVERSIONS, "gzip") is None
    deadline = time.monotonic() + 30
    while not (letters := dlq.list_letters(kafka)):
        check_alive(house)
        assert time.monotonic() < deadline
        time.sleep(0.2)
    [letter] = letters
    assert (letter.topic, letter.record.header("cut-from")) == (CONVERSIONS, str(HUGE))
    assert "at most 1000000 bytes" in str(letter.summary()["reason"])
    assert list(dlq.replay(kafka, {letter.number})) == [
        f"{letter.number}: skipped, of its {HUGE} bytes the letter holds the first alone"
    ]
