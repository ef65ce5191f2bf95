"""Kafka clients, set up the one way all workers share. Knows confluent-kafka; knows nothing of messages.

Any librdkafka property is a plain setting: TIDERANK_KAFKA_SECURITY_PROTOCOL=SSL becomes `security.protocol=SSL`.
"""

import logging
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._metadata import ClusterMetadata
from confluent_kafka.cimpl import NewTopic

from streams.errors import StartError
from streams.runtime.sparing import Sparing
from streams.wire.signing import Signer, signer_from_environment
from streams.wire.topics import READER_GROUP, TOPICS, Topic

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10.0
SESSION_TIMEOUT_MS = 6_000
"""How long a killed worker's partitions wait: with static membership nothing else tells the broker."""
MAX_POLL_MS = 3_600_000
"""How long a member may work on one batch. That a process lives is told by its heartbeats, which need no poll, and that
its loop does by the health check; so a slow step, or a wait for Redis, is not to cost a member its partitions."""
FETCH_WAIT_MS = 500
"""How long Kafka holds a fetch that finds nothing; so long may a new partition's first record wait, and a question to
the same broker, which answers one thing at a time: below a second, after which who asks gives up."""
END_FETCH_WAIT_MS = 250
"""The same of a reader outside groups that wants to know of the end: it is told by such a fetch that it is there."""
LEADER_TIMEOUT_S = 30.0
"""How long a partition may be without a leader: a broker that starts on a busy machine takes its time."""
MAX_RECORD_BYTES = 5_000_000
"""Largest record that a client sends: above every topic's own limit."""
BOOTSTRAP = "TIDERANK_BOOTSTRAP"
_PREFIX = "TIDERANK_KAFKA_"


@dataclass(frozen=True)
class Kafka:
    """A broker address, with the extra librdkafka properties of every client of it."""

    bootstrap: str
    properties: Mapping[str, str]
    signer: Signer | None = None
    """Signer of the records that change a model; None: they are neither signed nor is a signature asked for."""

    @classmethod
    def from_environment(cls, bootstrap: str | None = None) -> "Kafka":
        """The broker at `bootstrap`, or else at TIDERANK_BOOTSTRAP. Raises StartError where neither is given."""
        bootstrap = bootstrap or os.environ.get(BOOTSTRAP)
        if not bootstrap:
            raise StartError(
                "TIDERANK_BOOTSTRAP must be set (the broker's host:port); start `tiderank up --workers` and paste the "
                "export line that it prints"
            )
        extra = {k[len(_PREFIX) :].lower().replace("_", "."): v for k, v in os.environ.items() if k.startswith(_PREFIX)}
        if "log.level" in extra:
            extra["log_level"] = extra.pop("log.level")  # the one property with an underscore
        return cls(bootstrap, extra, signer_from_environment())

    def _base(self) -> dict[str, Any]:
        # What goes wrong is said by `_say`, or by who waits for it; the client would log each try, 20 a second.
        return {"bootstrap.servers": self.bootstrap, "log_level": 2, **self.properties}

    def producer(self, *, linger_ms: float = 0.0, delivery_timeout_ms: int = 30_000) -> Producer:
        """A producer: idempotent, acknowledged by all replicas, and hashing keys as Java's clients do."""
        return Producer(
            self._base()
            | {
                "error_cb": _say,
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": linger_ms,
                "partitioner": "murmur2_random",
                "message.timeout.ms": delivery_timeout_ms,
                "message.max.bytes": MAX_RECORD_BYTES,
                "queue.buffering.max.messages": 200_000,
            }
        )

    def _fetch_wait_ms(self, kafka_ms: int) -> int:
        """How long the broker may hold a fetch that finds nothing; a Kafka: `kafka_ms`.

        A Kafka answers as soon as something comes, so a long wait delays no record, and a short one makes it answer
        hundreds of empty fetches a second. The in-memory broker holds every fetch for the whole wait.
        """
        try:
            return 2 if self.in_memory else kafka_ms
        except KafkaException:
            return kafka_ms  # it does not answer: the client will say so

    def group_consumer(self, group: str, instance: str, *, uncommitted: bool = False) -> Consumer:
        """A member of a group, known to the broker by name, so that a quick restart moves no partition.

        uncommitted: records of open and of aborted transactions are read too. Else one sender's open transaction holds
        back all that came after it in its partitions.
        """
        return Consumer(
            self._base()
            | {
                "error_cb": _say,
                "group.id": group,
                "group.instance.id": f"{group}-{instance}",
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": SESSION_TIMEOUT_MS,
                "heartbeat.interval.ms": 1_000,
                "max.poll.interval.ms": MAX_POLL_MS,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "fetch.wait.max.ms": self._fetch_wait_ms(FETCH_WAIT_MS),
                "isolation.level": "read_uncommitted" if uncommitted else "read_committed",
                "topic.metadata.refresh.interval.ms": 30_000,
            }
        )

    def reader(self, *, eof: bool = True, group: str = READER_GROUP, uncommitted: bool = False) -> Consumer:
        """A consumer outside any group: assigned by hand, committing nothing.

        group: whose offsets it may ask for. uncommitted: it also sees records of open and of aborted transactions.
        """
        return Consumer(
            self._base()
            | {
                "group.id": group,  # required by the client; never joined
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "enable.partition.eof": eof,
                "isolation.level": "read_uncommitted" if uncommitted else "read_committed",
                "fetch.wait.max.ms": self._fetch_wait_ms(END_FETCH_WAIT_MS if eof else FETCH_WAIT_MS),
            }
        )

    def admin(self) -> AdminClient:
        return AdminClient(self._base())

    def check(self, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        """Raises StartError if the broker does not answer in time, or does not let us in."""
        errors: list[KafkaError] = []
        quiet = {"log_level": 0, "error_cb": errors.append}
        try:
            admin = AdminClient(self._base() | quiet)
        except KafkaException as error:
            raise StartError(f"TIDERANK_KAFKA_* make no Kafka client: {error.args[0].str()}") from error
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                admin.list_topics(timeout=max(0.1, min(1.0, deadline - time.monotonic())))
            except KafkaException as error:
                admin.poll(0)
                if refusal := next(filter(_is_refusal, errors), None):
                    raise StartError(
                        f"the Kafka broker at {self.bootstrap} and this client do not trust each other "
                        f"({refusal.str()}); check TIDERANK_KAFKA_SSL_* and TIDERANK_KAFKA_SASL_*"
                    ) from error
                if time.monotonic() >= deadline:
                    raise StartError(
                        f"no Kafka broker answers at {self.bootstrap} within {timeout_s:.0f} s "
                        f"({error.args[0].str()}); check TIDERANK_BOOTSTRAP (and, where it wants TLS, "
                        "TIDERANK_KAFKA_SECURITY_PROTOCOL), or unset it and run `tiderank up`"
                    ) from error
            else:
                return

    @cached_property
    def in_memory(self) -> bool:
        """Whether the broker is the one built into librdkafka: a first look, nothing to be measured on.

        Raises KafkaException where none answers.
        """
        return _in_memory(self._asker.list_topics(timeout=CONNECT_TIMEOUT_S))

    @cached_property
    def _asker(self) -> AdminClient:
        """A client that is kept for questions: a new one takes 50 ms until its first answer, this one takes 1."""
        return self.admin()

    def create_topics(self, topics: Iterable[Topic] = TOPICS.values(), *, replication: int = 1) -> list[str]:
        """Creates the topics that are missing, with their settings; returns their names. Leaves the others alone."""
        self.check()
        admin = self.admin()
        present = admin.list_topics(timeout=CONNECT_TIMEOUT_S)
        missing = [t for t in topics if t.name not in present.topics]
        if not missing:
            return []
        if _in_memory(present):
            # The in-memory broker takes no orders: it makes a topic, with 4 partitions, when first asked about it.
            for topic in missing:
                admin.list_topics(topic.name, timeout=CONNECT_TIMEOUT_S)
            return [t.name for t in missing]
        new = [NewTopic(t.name, t.partitions, replication, config=topic_settings(t)) for t in missing]
        for name, future in admin.create_topics(new, operation_timeout=CONNECT_TIMEOUT_S).items():
            try:
                future.result(timeout=2 * CONNECT_TIMEOUT_S)
            except KafkaException as error:
                if error.args[0].name() == "TOPIC_ALREADY_EXISTS":
                    continue
                raise StartError(f"topic {name} could not be created: {error.args[0].str()}") from error
        self._await_topics([t.name for t in missing])
        return [t.name for t in missing]

    def _await_topics(self, names: list[str]) -> None:
        admin, deadline = self.admin(), time.monotonic() + CONNECT_TIMEOUT_S
        while time.monotonic() < deadline:
            known = admin.list_topics(timeout=CONNECT_TIMEOUT_S).topics
            if all(name in known and known[name].partitions for name in names):
                return
            time.sleep(0.05)
        raise StartError(f"topics {names} were created but did not appear within {CONNECT_TIMEOUT_S:.0f} s")

    def partitions(self, topic: str) -> list[int]:
        """The partitions of a topic, in order. Raises StartError where it does not exist, or is closed to us."""
        known = self._asker.list_topics(topic, timeout=CONNECT_TIMEOUT_S).topics[topic]
        if known.error is not None and is_denied(known.error):
            raise denied(known.error, topic)
        if known.error is not None or not known.partitions:
            raise StartError(f"topic {topic} is not at {self.bootstrap}; create all with `tiderank topics create`")
        return sorted(known.partitions)


def _say(error: KafkaError) -> None:
    """Logs what a client meets by itself, each kind once a minute; it tries again by itself, too."""
    if _said.due(error.code()):
        log.warning("kafka: %s; the client tries again by itself", error.str())


_said = Sparing()
"""Which errors `_say` has said lately, by their code."""


def _in_memory(cluster: ClusterMetadata) -> bool:
    return (cluster.cluster_id or "").startswith("mockCluster")


def _is_refusal(error: KafkaError) -> bool:
    """Whether the error is that broker and client do not trust each other; a TLS alert comes as any other end of a
    connection."""
    return error.name() in ("_AUTHENTICATION", "_SSL") or "alert" in error.str()


def is_denied(error: KafkaError) -> bool:
    """Whether the error is that the broker's access rules forbid what was asked."""
    return error.name().endswith("AUTHORIZATION_FAILED")


def denied(error: KafkaError, what: str = "") -> StartError:
    """What to raise where the broker's access rules forbid something."""
    return StartError(
        f"Kafka forbids this {f'on {what}' if what else 'user'}: {error.str()}; `tiderank access kafka` lists what "
        "each worker needs"
    )


def watermarks(consumer: Consumer, topic: str, partition: int) -> tuple[int, int]:
    """Returns (first offset kept, next offset). Waits for the leader of a partition that was made a moment ago.

    Raises StartError if the broker does not say within LEADER_TIMEOUT_S, or the topic is closed to us.
    """
    deadline = time.monotonic() + LEADER_TIMEOUT_S
    while True:
        try:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=CONNECT_TIMEOUT_S)
            return low, high
        except KafkaException as error:
            if not error.args[0].retriable() and error.args[0].name() not in _NO_LEADER_YET:
                raise
            known = consumer.list_topics(topic, timeout=CONNECT_TIMEOUT_S).topics[topic].error
            if known is not None and is_denied(known):
                raise denied(known, topic) from error
            if time.monotonic() > deadline:
                raise StartError(f"{topic}[{partition}] has no leader: {error.args[0].str()}") from error
            time.sleep(0.05)


_NO_LEADER_YET = {"NOT_LEADER_FOR_PARTITION", "LEADER_NOT_AVAILABLE", "_UNKNOWN_PARTITION", "UNKNOWN_TOPIC_OR_PART"}


def topic_settings(topic: Topic) -> dict[str, str]:
    """Settings of a topic as the broker names them. Broker time is the time of a record: clients' clocks disagree."""
    return {
        "cleanup.policy": "delete",
        "retention.ms": str(topic.retention_ms),
        # A record goes with its segment, when the newest one in it is old enough: Kafka's week would keep it for two.
        "segment.ms": str(topic.retention_ms // 7),
        "retention.bytes": str(topic.retention_bytes or -1),
        "max.message.bytes": str(topic.max_bytes + 2_000),  # the record's own framing and headers
        "message.timestamp.type": "LogAppendTime",
        "compression.type": "uncompressed" if topic.unpacked else "producer",
    }


def topic_partitions(offsets: Mapping[tuple[str, int], int]) -> list[TopicPartition]:
    return [TopicPartition(topic, partition, offset) for (topic, partition), offset in offsets.items()]
