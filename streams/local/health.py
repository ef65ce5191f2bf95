"""Is it there, and does it work? One real round trip through a broker or a Redis."""

import os
import time
import uuid

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition
from redis.exceptions import RedisError

from streams.errors import StartError
from streams.kafka.connection import Kafka
from streams.local.process import StackError
from streams.runtime.redis_client import connect, redacted
from streams.wire.topics import HOUR_MS, Topic

HEALTH_TOPIC = Topic(name="tiderank.health", message=None, encoding="raw", partitions=1, retention_ms=HOUR_MS)
MIN_REDIS_MAJOR = 7
"""The user log is changed by server-side functions, which came with Redis 7."""


def broker_round_trip(kafka: Kafka, *, timeout_s: float = 10.0) -> float:
    """Produces a message to the health topic and reads it back; returns the seconds that took.

    Makes the topic if it is missing. Raises StackError if the broker does not answer or the message does not return.
    """
    deadline = time.monotonic() + timeout_s
    try:
        kafka.check(timeout_s)
        kafka.create_topics([HEALTH_TOPIC], replication=-1)  # as many replicas as the broker's own default
    except StartError as error:
        raise StackError(str(error)) from error
    start = time.monotonic()
    value = uuid.uuid4().bytes
    sent = _produce(kafka, value, deadline)
    consumer = kafka.reader(eof=False)
    try:
        consumer.assign([sent])
        while time.monotonic() < deadline:
            message = consumer.poll(0.1)
            if message is not None and message.error() is None and message.value() == value:
                return time.monotonic() - start
    finally:
        consumer.close()
    raise StackError(
        f"{kafka.bootstrap} took a message to {HEALTH_TOPIC.name} and did not give it back in {timeout_s:.0f} s"
    )


def _produce(kafka: Kafka, value: bytes, deadline: float) -> TopicPartition:
    """Sends and awaits the acknowledgement; returns the place of the record."""
    reports: list[tuple[KafkaError | None, Message]] = []
    producer = kafka.producer(delivery_timeout_ms=max(1_000, int(1_000 * (deadline - time.monotonic()))))
    try:
        producer.produce(HEALTH_TOPIC.name, value, on_delivery=lambda error, message: reports.append((error, message)))
        while not reports and time.monotonic() < deadline:
            producer.poll(0.05)
    except KafkaException as error:
        raise StackError(f"{kafka.bootstrap} refused a message to {HEALTH_TOPIC.name}: {error}") from error
    finally:
        producer.purge()
    if not reports:
        raise StackError(f"{kafka.bootstrap} did not acknowledge a message to {HEALTH_TOPIC.name} in time")
    refusal, message = reports[0]
    partition, offset = message.partition(), message.offset()
    if refusal is not None or partition is None or offset is None:
        raise StackError(f"{kafka.bootstrap} did not take a message to {HEALTH_TOPIC.name}: {refusal}")
    return TopicPartition(HEALTH_TOPIC.name, partition, offset)


def redis_round_trip(url: str, *, timeout_s: float = 5.0) -> str:
    """Sets a key, reads it back, removes it; returns the server's name and version.

    Raises StackError if the server does not answer, gives back something else, or is too old.
    """
    key = f"tiderank:health:{os.getpid()}:{uuid.uuid4().hex}"
    try:
        with connect(url, timeout_s=timeout_s) as client:
            client.set(key, b"1", ex=60)
            value = client.get(key)
            client.delete(key)
            info = client.info("server")
    except (RedisError, OSError, ValueError) as error:
        raise StackError(
            f"no Redis answers at {redacted(url)} ({type(error).__name__}: {error}); check TIDERANK_REDIS_URL, "
            "or unset it and run `tiderank up`"
        ) from error
    if value != b"1":
        raise StackError(f"Redis at {redacted(url)} gave back {value!r} for a key just set to b'1'")
    name = str(info.get("server_name", "redis"))
    version = str(info.get(f"{name}_version", info["redis_version"]))
    if int(version.split(".")[0]) < MIN_REDIS_MAJOR:
        raise StackError(f"Redis at {redacted(url)} is version {version}; need {MIN_REDIS_MAJOR} or later (functions)")
    return f"{name.capitalize()} {version}"


def answers_ping(url: str) -> bool:
    """True if a Redis takes commands there (and is not still loading its data)."""
    try:
        with connect(url) as client:
            return bool(client.ping())
    except (RedisError, OSError):
        return False
