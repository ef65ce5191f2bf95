"""A stranger that sends in transactions, as stream processors and connectors do.

Each fault returns whether serving suffers: it never does.
"""

import time

from confluent_kafka import Producer

from benchmarks.faults.target import Target
from streams.codec import encode
from streams.messages import Candidate, Conversion, Impression, RankingRequest
from streams.topics import CONVERSIONS, IMPRESSIONS, REQUESTS, TOPICS

USERS = 8
TRANSACTION_S = 60
"""As long as the broker allows."""
OTHERS_S = 30.0
"""Within this other senders' requests are to be answered, while a transaction is open."""


def leave_open(target: Target) -> bool:
    """It is committed in the end; until then it must not hold up anybody's requests."""
    producer = _begun(target)
    target.tend(target.rng.uniform(2.0, 6.0))
    target.await_answers(OTHERS_S)
    producer.commit_transaction(30.0)
    return False


def abort(target: Target) -> bool:
    producer = _begun(target)
    target.tend(target.rng.uniform(0.0, 2.0))
    producer.abort_transaction(30.0)
    return False


def abandon(target: Target) -> bool:
    """Its sender dies; the next one of its name, some seconds later, makes the broker abort it."""
    name = _name()
    _begun(target, name)
    target.tend(target.rng.uniform(2.0, 6.0))
    _producer(target, name).init_transactions(30.0)
    return False


def _begun(target: Target, name: str | None = None) -> Producer:
    """With requests and events of users of its own in it."""
    producer = _producer(target, name or _name())
    producer.init_transactions(30.0)
    producer.begin_transaction()
    now_ms = time.time_ns() // 1_000_000
    for number in range(USERS):
        user, tag = f"foreign-{now_ms}-{number}", f"{now_ms}-{number}"
        messages = {
            CONVERSIONS: Conversion(event_id=f"{tag}.s", user=user, kind="search", event_ms=now_ms, item="item-1"),
            IMPRESSIONS: Impression(
                event_id=f"{tag}.i", user=user, response_id="none", item="item-1", position=0, event_ms=now_ms
            ),
            REQUESTS: RankingRequest(request_id=f"foreign-{tag}", user=user, candidates=[Candidate(item="item-1")]),
        }
        for topic, message in messages.items():
            producer.produce(topic, encode(TOPICS[topic], message), user)
    producer.flush(10.0)
    return producer


def _name() -> str:
    return f"foreign-{time.time_ns()}"


def _producer(target: Target, name: str) -> Producer:
    return Producer(
        {
            "bootstrap.servers": target.house.kafka.bootstrap,
            "transactional.id": name,
            "transaction.timeout.ms": 1000 * TRANSACTION_S,
            "partitioner": "murmur2_random",
        }
    )
