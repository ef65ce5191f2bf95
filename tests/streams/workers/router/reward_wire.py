"""The ends of the rewards worker's topics, as a test holds them; ingest is the test."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen

from confluent_kafka import Consumer, Producer, TopicPartition

from feature_store.shared_clock import SharedClock
from streams.kafka.connection import Kafka, watermarks
from streams.local.stack import LocalStack
from streams.runtime.redis_client import PATIENT_S, connect
from streams.wire.codec import decode, encode
from streams.wire.messages import Decision, Outcome, Reward
from streams.wire.record import Record
from streams.wire.topics import DEAD_LETTERS, DECISIONS, OUTCOMES, REWARDS, TOPICS
from tests.streams.worker_process import worker_process

WINDOW_MS = 10_000
RECIPE = f"""
base = "default"
clock = "event"
[routing]
reward_window_ms = {WINDOW_MS}
"""
T0 = 1_700_000_000_000
USERS = [f"user {i}" for i in range(12)]


def decision(response: str, at: int = 0, plan: str = "light", cost: float = 2.0, user: str | None = None) -> Decision:
    return Decision(
        response_id=response,
        user=user or USERS[hash_of(response) % len(USERS)],
        event_ms=T0 + at,
        plan=plan,
        probabilities={"light": 0.75, "heavy": 0.25},
        values={"light": 1.0, "heavy": 2.0},
        costs={"light": 2.0, "heavy": 9.0},
        measured_ms=cost,
        price=0.5,
        context={"surface": "feed", "load": 0.25},
        router_number=3,
    )


def outcome(name: str, response: str, at: int, value: float = 1.0, user: str = "someone") -> Outcome:
    """Makes an outcome; its user is not the decision's, so that the two may be in different partitions."""
    return Outcome(outcome_id=name, response_id=response, user=user, kind="click", value=value, event_ms=T0 + at)


def hash_of(text: str) -> int:
    return sum(map(ord, text))


@dataclass
class Wire:
    """The test's end of the topics: sends facts, collects rewards and dead letters from where they stand now."""

    stack: LocalStack
    producer: Producer = field(init=False)
    rewards: list[Reward] = field(default_factory=list)
    letters: list[Record] = field(default_factory=list)
    consumer: Consumer = field(init=False)

    def __post_init__(self) -> None:
        kafka = Kafka(self.stack.bootstrap, {})
        self.producer = kafka.producer()
        self.consumer = kafka.reader(eof=False)
        places = [TopicPartition(topic, p) for topic in (REWARDS, DEAD_LETTERS) for p in kafka.partitions(topic)]
        for place in places:
            place.offset = watermarks(self.consumer, place.topic, place.partition)[1]
        self.consumer.assign(places)

    def send(self, *messages: Decision | Outcome) -> None:
        for message in messages:
            topic = DECISIONS if isinstance(message, Decision) else OUTCOMES
            self.send_raw(topic, encode(TOPICS[topic], message), key=message.user)
        assert self.producer.flush(10) == 0

    def send_raw(self, topic: str, value: bytes | None, *, key: str = "k", content_type: str | None = None) -> None:
        headers: dict[str, str | bytes | None] = {} if content_type is None else {"content-type": content_type}
        self.producer.produce(topic, value, key, headers=headers)

    def move_clock(self, at: int) -> None:
        """The join has closed all windows that end before, and what came of it is on the broker."""
        with connect(self.stack.redis_url, timeout_s=PATIENT_S) as redis:
            SharedClock(redis, "ingest").agree(T0 + at, T0 + at, (0, 1))

    def poll(self, timeout_s: float = 0.2) -> None:
        for message in self.consumer.consume(500, timeout_s):
            assert message.error() is None
            record = Record.of(message)
            if record.topic == REWARDS:
                self.rewards.append(decode(TOPICS[REWARDS], record.value))
            else:
                self.letters.append(record)

    def until(self, condition: Callable[[], bool], timeout_s: float = 90.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition() and time.monotonic() < deadline:
            self.poll()
        assert condition(), f"{len(self.rewards)} rewards, {len(self.letters)} letters; newest {self.rewards[-3:]}"

    def settle(self, quiet_s: float = 1.0) -> None:
        """Waits until nothing has come for a while."""
        before = -1
        while len(self.rewards) + len(self.letters) > before:
            before = len(self.rewards) + len(self.letters)
            self.poll(quiet_s)

    def of(self, *responses: str) -> list[Reward]:
        return [r for r in self.rewards if r.decision.response_id in responses]


def rewards_worker(stack: LocalStack, folder: Path, recipe: str = RECIPE) -> AbstractContextManager["Popen[bytes]"]:
    return worker_process("rewards", stack, folder, recipe)
