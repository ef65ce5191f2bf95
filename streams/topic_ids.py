"""Whether topics are still those that were read: one that is deleted and made again has another id.

librdkafka keeps the leader epoch of the topic that was. Where the broker was restarted since that was made, the epoch
of the new one is lower: the client takes each word of it for an old one, and waits for ever, without an error. And the
offsets of the topic that was mean nothing in the new one, wherever they are written down. A group's are deleted with
their topic; but a commit that is tried again until it is through may be through in the new one.
"""

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future
from hashlib import blake2b
from typing import Any, cast

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient
from redis import Redis

from streams.errors import StreamError
from streams.kafka import CONNECT_TIMEOUT_S

log = logging.getLogger(__name__)

ASK_EVERY_S = 5.0
TIMEOUT_S = 2.0


class TopicIds:
    def __init__(self, admin: AdminClient, topics: Sequence[str]) -> None:
        """Asks for them, and waits for the answer."""
        self._admin = admin
        self._topics = list(topics)
        self._ids: dict[str, str] = {}
        """By topic, as first heard of."""
        self._answers: dict[str, Future[Any]] = {}
        self._due = 0.0
        self._ask(CONNECT_TIMEOUT_S)
        self._take_answers()

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
        anew = {topic for topic, now in self._ids.items() if told.get(topic.encode(), now.encode()) != now.encode()}
        stored = cast(dict[bytes, bytes], redis.hgetall(places))
        old = [field for field in stored if field.decode().rpartition(":")[0] in anew]
        with redis.pipeline(transaction=True) as pipe:
            if old:
                log.warning("%s: made anew since it was read; it is read from its beginning", ", ".join(sorted(anew)))
                pipe.hdel(places, *old)
            if self._ids:
                pipe.hset(known, items=[word for pair in self._ids.items() for word in pair])
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
        self._answers = self._admin.describe_topics(TopicCollection(self._topics), request_timeout=timeout_s)

    def _take_answers(self) -> None:
        answers, self._answers = self._answers, {}
        for topic, answer in answers.items():
            self._compare(topic, answer)

    def _compare(self, topic: str, answer: Future[Any]) -> None:
        try:
            found = str(answer.result().topic_id)
        except KafkaException:  # the broker is away, or the topic is not there for the moment
            return
        if self._ids.setdefault(topic, found) != found:
            raise StreamError(
                f"{topic} was deleted and made again, and this client would go on waiting for the one that was: "
                "start again, and all that the new one holds is read"
            )
