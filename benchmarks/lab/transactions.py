"""A sender that writes in transactions, as Flink, Kafka Streams and Connect do: events and requests."""

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

from confluent_kafka import KafkaException, Producer

from streams.wire.topics import CONVERSIONS, IMPRESSIONS, REQUESTS

USERS = 5
TIMEOUT_S = 30.0


@contextmanager
def transaction(bootstrap: str, end: Literal["commit", "abort"]) -> Iterator[str]:
    """Sends a conversion, an impression and a request of each of some users; open while the block lasts.

    Yields the prefix of their ids.
    """
    name = f"tx-{uuid.uuid4().hex[:8]}"
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "transactional.id": name,
            "transaction.timeout.ms": 60_000,
            "partitioner": "murmur2_random",
        }
    )
    producer.init_transactions(TIMEOUT_S)
    producer.begin_transaction()
    now_ms = int(time.time() * 1000)
    for number in range(USERS):
        user = f"{name}-{number}"
        event = {"user": user, "item": "ad-1", "event_ms": now_ms}
        for topic, message in (
            (CONVERSIONS, event | {"event_id": f"{user}-search", "kind": "search"}),
            (IMPRESSIONS, event | {"event_id": f"{user}-shown", "response_id": "none", "position": 0}),
            (REQUESTS, {"request_id": f"{user}-request", "user": user, "candidates": [{"item": "ad-1"}]}),
        ):
            producer.produce(topic, json.dumps(message), key=user)
    producer.flush(TIMEOUT_S)
    try:
        yield name
    finally:
        if end == "commit":
            producer.commit_transaction(TIMEOUT_S)
        else:
            with suppress(KafkaException):  # it was open for too long: the broker has done it
                producer.abort_transaction(TIMEOUT_S)
