"""Whether topics are still those that were read: one that is deleted and made again has another id.

librdkafka keeps the leader epoch of the topic that was. Where the broker was restarted since that was made, the epoch
of the new one is lower: the client takes each word of it for an old one, and waits for ever, without an error. And the
offsets of the topic that was mean nothing in the new one, wherever they are written down. A group's are deleted with
their topic; but a commit that is tried again until it is through may be through in the new one.
"""

import logging
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from hashlib import blake2b
from typing import Any, cast

from confluent_kafka import KafkaError, KafkaException, TopicCollection, Uuid
from redis import Redis

from streams.errors import StartError, StreamError
from streams.kafka.connection import LEADER_TIMEOUT_S, Kafka, denied, is_denied

log = logging.getLogger(__name__)

ASK_EVERY_S = 5.0
TIMEOUT_S = 2.0
MISSED = 2
"""So many answers in a row must say that a topic is gone: a broker that starts may say so once."""
NO_ID = str(Uuid(0, 0))
"""What a broker says that has none."""


class TopicIds:
    """Asks nothing of the in-memory broker, which has no ids and lives no longer than its topics."""

    def __init__(self, kafka: Kafka, topics: Sequence[str]) -> None:
        """Waits for the answer. Raises StartError where a topic does not exist, or the broker does not say."""
        self._admin = kafka.admin()
        try:
            self._topics = [] if kafka.in_memory else list(topics)
        except KafkaException as error:
            raise _not_told(", ".join(topics), error.args[0]) from error
        self._ids: dict[str, str] = {}
        self._missed: Counter[str] = Counter()
        """By topic, how many answers in a row said that it does not exist."""
        self._answers: dict[str, Future[Any]] = {}
        self._due = 0.0
        self._ask(LEADER_TIMEOUT_S)
        for topic, answer in self._answers.items():
            try:
                self._ids[topic] = str(answer.result().topic_id)
            except KafkaException as error:
                raise _not_told(topic, error.args[0]) from error
        self._answers = {}

    @property
    def tell(self) -> bool:
        """Whether a topic that was made anew can be told from the one that was; else an offset of it may mean
        nothing."""
        return bool(self._ids) and NO_ID not in self._ids.values()

    def member_name(self, instance: str) -> str:
        """What a group is to know this process by: another name once one of its topics is another one.

        A static member that comes back under its old name is given what it had, whatever has become of the topics
        since: if one was away when that was decided, it would never be given it.
        """
        told = "".join(f"{topic}={self._ids[topic]}," for topic in sorted(self._ids))
        return f"{instance}-{blake2b(told.encode(), digest_size=4).hexdigest()}"

    def forget_old_places(self, redis: Redis, *, places: str | bytes, known: str) -> None:
        """Removes the offsets that Redis has of topics which were made anew since. Raises redis' errors.

        places: the hash that has them, by "topic:partition". known: the hash of the ids of the topics they are of.
        """
        told = cast(dict[bytes, bytes], redis.hgetall(known))
        ids = {topic: now for topic, now in self._ids.items() if now != NO_ID}
        anew = {topic for topic, now in ids.items() if told.get(topic.encode(), now.encode()) != now.encode()}
        stored = cast(dict[bytes, bytes], redis.hgetall(places))
        old = [field for field in stored if field.decode().rpartition(":")[0] in anew]
        with redis.pipeline(transaction=True) as pipe:
            if old:
                log.warning("%s: made anew since it was read; it is read from its beginning", ", ".join(sorted(anew)))
                pipe.hdel(places, *old)
            if ids:
                pipe.hset(known, items=[word for pair in ids.items() for word in pair])
            pipe.execute()

    def check(self) -> None:
        """To be called all the time; it waits for nothing. Raises StreamError once a topic is another one."""
        if self._answers:
            if all(answer.done() for answer in self._answers.values()):
                self._take_answers()
        elif time.monotonic() >= self._due:
            self._ask(TIMEOUT_S)

    def _ask(self, timeout_s: float) -> None:
        self._due = time.monotonic() + ASK_EVERY_S
        if self._topics:
            self._answers = self._admin.describe_topics(TopicCollection(self._topics), request_timeout=timeout_s)

    def _take_answers(self) -> None:
        answers, self._answers = self._answers, {}
        for topic, answer in answers.items():
            self._compare(topic, answer)

    def _compare(self, topic: str, answer: Future[Any]) -> None:
        try:
            found = str(answer.result().topic_id)
        except KafkaException as error:  # the broker is away, or starts
            self._missed[topic] += error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART
            if self._missed[topic] >= MISSED:
                raise StreamError(
                    f"{topic} was deleted: make it again (`tiderank topics create`), and start again"
                ) from error
            return
        self._missed[topic] = 0
        if NO_ID not in (found, self._ids[topic]) and self._ids[topic] != found:
            raise StreamError(
                f"{topic} was deleted and made again, and this client would go on waiting for the one that was: "
                "start again, and all that the new one holds is read"
            )


def _not_told(topic: str, error: KafkaError) -> StartError:
    if is_denied(error):
        return denied(error, topic)
    if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
        return StartError(f"topic {topic} does not exist; create all with `tiderank topics create`")
    return StartError(f"the Kafka broker does not say what topic {topic} is: {error.str()}")
