"""Whether topics are still those that a client began to read: one that is deleted and made again has another id.

librdkafka keeps the leader epoch of the topic that was. Where the broker was restarted since that was made, the epoch
of the new one is lower: the client takes each word of it for an old one, and waits for ever, without an error.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from streams.errors import StreamError

ASK_EVERY_S = 5.0
TIMEOUT_S = 2.0


class TopicIds:
    def __init__(self, admin: AdminClient, topics: Sequence[str]) -> None:
        self._admin = admin
        self._topics = list(topics)
        self._ids: dict[str, str] = {}
        self._answers: dict[str, Future[Any]] = {}
        self._due = 0.0

    def check(self) -> None:
        """To be called all the time; it waits for nothing. Raises StreamError once a topic is another one."""
        if self._answers:
            if all(answer.done() for answer in self._answers.values()):
                answers, self._answers = self._answers, {}
                for topic, answer in answers.items():
                    self._compare(topic, answer)
        elif time.monotonic() >= self._due:
            self._due = time.monotonic() + ASK_EVERY_S
            self._answers = self._admin.describe_topics(TopicCollection(self._topics), request_timeout=TIMEOUT_S)

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
