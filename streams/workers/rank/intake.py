"""From a record of ranking.requests to work that can be done, or to a refusal that its sender can read."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from confluent_kafka import KafkaException

from streams.errors import Refused
from streams.wire.codec import address_of, decode
from streams.wire.event_time import TimeBounds
from streams.wire.headers import CONTENT_TYPE, DEADLINE_MS, MAX_DEADLINE_MS, REPLY_TOPIC
from streams.wire.messages import MAX_TEXT, RankingRequest
from streams.wire.record import Record
from streams.wire.topics import REQUESTS, RESPONSES, TOPICS

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Work:
    """A request that can be ranked."""

    record: Record
    request: RankingRequest
    event_ms: int
    deadline_ms: int
    """Wall clock, ms: from then on only a fallback is of use."""
    reply_topic: str
    content_type: str | None

    def expired(self, now_ms: float) -> bool:
        return now_ms > self.deadline_ms


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that never can be. With a request id its sender gets an error response."""

    record: Record
    reason: str
    request_id: str | None
    user: str
    reply_topic: str
    content_type: str | None


class Intake:
    """Checks requests: `topic_exists` tells whether a reply topic is there."""

    def __init__(
        self,
        *,
        topic_exists: Callable[[str], bool],
        reply_prefix: str,
        default_deadline_ms: int,
        times: TimeBounds,
    ) -> None:
        self._topic_exists = topic_exists
        self._reply_prefix = reply_prefix
        self._default_deadline_ms = default_deadline_ms
        self._times = times

    def take(self, record: Record) -> Work | Refusal:
        content_type = record.header(CONTENT_TYPE)
        try:
            request: RankingRequest = decode(TOPICS[REQUESTS], record.value, content_type)
            event_ms = self._times.check(request.event_ms, record)
            deadline_ms = record.timestamp_ms + self._deadline(record.header(DEADLINE_MS))
            reply_topic = self._reply_topic(record.header(REPLY_TOPIC))
        except Refused as refused:
            return self._refuse(record, str(refused), content_type)
        return Work(record, request, event_ms, deadline_ms, reply_topic, content_type)

    def _deadline(self, text: str | None) -> int:
        if text is None:
            return self._default_deadline_ms
        if not (text.isascii() and text.isdigit() and len(text) <= 9 and 0 < int(text) <= MAX_DEADLINE_MS):
            raise Refused(f"{DEADLINE_MS} must be whole milliseconds, 1 to {MAX_DEADLINE_MS}, got {text[:40]!r}")
        return int(text)

    def _reply_topic(self, name: str | None) -> str:
        if name is None:
            return RESPONSES
        if not name.startswith(self._reply_prefix):
            raise Refused(f"{REPLY_TOPIC} must begin with {self._reply_prefix!r}, got {name[:100]!r}")
        if not self._topic_exists(name):
            raise Refused(f"{REPLY_TOPIC} must exist, and {name[:100]!r} does not; create it first")
        return name

    def _refuse(self, record: Record, reason: str, content_type: str | None) -> Refusal:
        address = address_of(record.value or b"", content_type)
        try:
            reply_topic = self._reply_topic(record.header(REPLY_TOPIC))
        except Refused:
            reply_topic = RESPONSES
        request_id, user = (address.request_id, address.user) if address else (None, "")
        if not (isinstance(user, str) and len(user) <= MAX_TEXT):
            user = ""
        return Refusal(record, reason, request_id, user, reply_topic, content_type)


class TopicNames:
    """Which topics exist, asked of the broker at most every `every_s`: a stranger's bad header must not hold a loop.

    Asked again of those known too, as topics are deleted. `list_names` may raise KafkaException: then what was known
    stands.
    """

    def __init__(self, list_names: Callable[[], set[str]], *, every_s: float = 2.0) -> None:
        self._list_names = list_names
        self._every_s = every_s
        self._names: set[str] = set()
        self._asked = float("-inf")

    def __call__(self, name: str) -> bool:
        if time.monotonic() - self._asked > self._every_s:
            try:
                self._names = self._list_names()
            except KafkaException as error:
                log.warning("topic names: %s", error.args[0].str())
            self._asked = time.monotonic()
        return name in self._names
