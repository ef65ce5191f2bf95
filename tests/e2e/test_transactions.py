"""Senders with transactions, as stream processors have: one that stays open holds up nobody's ranking."""

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest
from confluent_kafka import Producer

from feature_store.keys import log_key
from streams.client import RankingClient
from streams.kafka.connection import Kafka
from streams.local.kafka import why_not
from streams.runtime.redis_client import connect
from streams.wire.messages import Candidate, RankingRequest
from streams.wire.topics import CONVERSIONS, REQUESTS
from tests.e2e.running import House, running

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(why_not() is not None, reason=f"the in-memory broker has no transactions: {why_not()}"),
]

REQUESTS_SENT = 20
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with running(tmp_path_factory.mktemp("transactions"), ["rank", "ingest", "train"], broker="kafka") as up:
        yield up


def begin(kafka: Kafka) -> Producer:
    """A sender with an open transaction that holds a request and an event in every partition."""
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": uuid4().hex})
    producer.init_transactions()
    producer.begin_transaction()
    now_ms = int(time.time() * 1000)
    for partition in range(4):
        user = f"open-{partition}"
        request = {"request_id": uuid4().hex, "user": user, "candidates": [{"item": "ad-1"}]}
        event = {"event_id": uuid4().hex, "user": user, "kind": "search", "item": "ad-1", "event_ms": now_ms}
        producer.produce(REQUESTS, json.dumps(request), user, partition)
        producer.produce(CONVERSIONS, json.dumps(event), user, partition)
    producer.flush(10)
    return producer


def test_an_open_transaction_stops_nobodys_ranking(house: House) -> None:
    sender = begin(house.kafka)
    with RankingClient(house.kafka) as client:
        answers = [
            client.rank(
                RankingRequest(request_id=f"other-{n}", user=f"other-{n}", candidates=[Candidate(item="ad-1")]),
                deadline_ms=30_000,
                timeout_s=30.0,
            )
            for n in range(REQUESTS_SENT)
        ]
    sender.abort_transaction()
    assert [answer.status for answer in answers] == ["ok"] * REQUESTS_SENT


def test_it_holds_events_and_says_so(house: House) -> None:
    """An aborted event must never count, so what comes after an open transaction waits; and that can be seen."""
    redis, sender = connect(house.stack.redis_url), begin(house.kafka)
    producer, user = house.kafka.producer(), f"behind-{uuid4().hex}"
    event = {"event_id": user, "user": user, "kind": "search", "item": "ad-1", "event_ms": int(time.time() * 1000)}
    producer.produce(CONVERSIONS, json.dumps(event), user)
    assert producer.flush(10) == 0
    await_(lambda: open_for_s(house) > 2.0, "the open transaction was never seen in the metrics")
    assert not redis.exists(log_key(user))
    sender.abort_transaction()
    await_(lambda: bool(redis.exists(log_key(user))), "the event behind it was never read")
    await_(lambda: open_for_s(house) == 0.0, "the metric still says that a transaction is open")
    assert not any(redis.exists(log_key(f"open-{partition}")) for partition in range(4))


def open_for_s(house: House) -> float:
    url = f"http://127.0.0.1:{house.workers['ingest'].metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=5.0) as page:
        lines = page.read().decode().splitlines()
    values = [float(line.split()[-1]) for line in lines if line.startswith("tiderank_open_transaction_seconds{")]
    return max(values, default=0.0)


def await_(condition: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.2)
