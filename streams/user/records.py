"""A user's records on the topics: which are theirs, how many there are, and until when Kafka keeps them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec
from confluent_kafka import KafkaException
from confluent_kafka.admin import ConfigResource, ResourceType  # type: ignore[attr-defined]  # public by its manual
from msgspec import Struct

from streams.errors import Refused
from streams.kafka.connection import CONNECT_TIMEOUT_S, Kafka, topic_settings
from streams.kafka.scan import read_topic
from streams.wire.codec import decode
from streams.wire.headers import CONTENT_TYPE
from streams.wire.record import Record
from streams.wire.topics import (
    CONVERSIONS,
    DEAD_LETTERS,
    DECISIONS,
    EXAMPLES,
    IMPRESSIONS,
    OUTCOMES,
    REQUESTS,
    RESPONSES,
    REWARDS,
    SERVED,
    TOPICS,
)

USER_TOPICS = (
    *(REQUESTS, RESPONSES, SERVED, IMPRESSIONS, CONVERSIONS),
    *(DECISIONS, OUTCOMES, REWARDS, EXAMPLES, DEAD_LETTERS),
)
"""All that hold users' records. The other two hold weights."""
_SETTINGS = ("retention.ms", "segment.ms")


class _Owner(Struct):
    """As much of a JSON message as says whose it is."""

    user: str = ""


class _RewardOwner(Struct):
    decision: _Owner


_owner = msgspec.json.Decoder(_Owner).decode
_reward_owner = msgspec.json.Decoder(_RewardOwner).decode


def is_of(record: Record, user: str) -> bool:
    """By what the message says, not by its key: senders may key as they like. What does not decode goes by its key."""
    topic = TOPICS[record.topic]
    of_key = record.key == user.encode()
    if topic.message is None or record.value is None:
        return of_key
    as_json = topic.encoding == "json" and record.header(CONTENT_TYPE) in (None, "application/json")
    try:
        if as_json and record.topic == REWARDS:
            return _reward_owner(record.value).decision.user == user
        if as_json:
            return _owner(record.value).user == user
        if user.encode() not in record.value:  # MessagePack writes a string's bytes as they are
            return False
        message = decode(topic, record.value, record.header(CONTENT_TYPE))
    except (Refused, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return of_key
    return bool(getattr(message, "decision", message).user == user)


def records_of(kafka: Kafka, topic: str, user: str, since: Mapping[int, int] | None = None) -> Iterator[Record]:
    """The user's, of what the broker keeps of the topic from these offsets on. Reads every record of it."""
    return (record for record in read_topic(kafka, topic, since) if is_of(record, user))


@dataclass(frozen=True, slots=True)
class Kept:
    """What Kafka holds of a user on one topic."""

    topic: str
    kept_ms: int | None
    """How long the broker keeps a record at most; None: by its size alone."""
    records: int | None = None
    """None: not looked for."""
    oldest_ms: int | None = None
    newest_ms: int | None = None

    @property
    def gone_ms(self) -> int | None:
        """Broker time by which all are gone; None where there is none, or nothing says when."""
        return None if self.newest_ms is None or self.kept_ms is None else self.newest_ms + self.kept_ms


def kept_records(kafka: Kafka, user: str, *, scan: bool) -> list[Kept]:
    """By topic; scan: reads every record that is kept (minutes on a large topic), else says how long they are kept."""
    times = kept_times(kafka)
    if not scan:
        return [Kept(topic, times[topic]) for topic in USER_TOPICS]
    return [_count(kafka, topic, user, times[topic]) for topic in USER_TOPICS]


def _count(kafka: Kafka, topic: str, user: str, kept_ms: int | None) -> Kept:
    stamps = [record.timestamp_ms for record in records_of(kafka, topic, user)]
    return Kept(topic, kept_ms, len(stamps), min(stamps, default=None), max(stamps, default=None))


def kept_times(kafka: Kafka) -> dict[str, int | None]:
    """By topic, how long the broker keeps a record at most: it removes whole segments, by their newest record.

    As the broker has it, or else, where it does not tell, as we make the topics.
    """
    ours = {topic: {name: topic_settings(TOPICS[topic])[name] for name in _SETTINGS} for topic in USER_TOPICS}
    admin = kafka.admin()
    asked = admin.describe_configs([ConfigResource(ResourceType.TOPIC, topic) for topic in USER_TOPICS])
    for resource, future in asked.items():
        try:
            entries = future.result(timeout=2 * CONNECT_TIMEOUT_S)
        except (KafkaException, TimeoutError):  # the in-memory broker; or no right to ask
            continue
        ours[resource.name] |= {name: entries[name].value for name in _SETTINGS if name in entries}
    return {
        topic: None if int(settings["retention.ms"]) < 0 else sum(int(value) for value in settings.values())
        for topic, settings in ours.items()
    }
