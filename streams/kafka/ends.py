"""Where partitions end, asked of the broker without waiting for the answer.

What the last fetch said is out of date after any pause: of the process, of the machine, of the broker.
"""

import time
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass

from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ListOffsetsResultInfo,
    OffsetSpec,
)

TIMEOUT_S = 2.0
REFRESH_S = 0.5
"""How long a broker that gave an error may hold the caller."""


@dataclass(frozen=True, slots=True)
class Ends:
    asked_ms: int
    """Wall clock just before the question."""
    offsets: dict[tuple[str, int], int]
    """Next offset of each partition, at that time or later."""


class EndsQuestion:
    """One question under way at a time: `ask`, then take the answer when it is there."""

    def __init__(self, admin: AdminClient, *, committed: bool = False) -> None:
        """committed: asks for the end of what no open transaction holds back."""
        self._admin = admin
        self._isolation = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
        self._asked_ms = 0
        self._futures: dict[TopicPartition, Future[ListOffsetsResultInfo]] = {}

    @property
    def open(self) -> bool:
        return bool(self._futures)

    def ask(self, places: Iterable[tuple[str, int]]) -> None:
        """Asks about these partitions; a question that is open is forgotten."""
        wanted = {TopicPartition(*place): OffsetSpec.latest() for place in places}  # type: ignore[no-untyped-call]
        self._asked_ms = int(time.time() * 1000)
        self._futures = {}
        if wanted:
            self._futures = self._admin.list_offsets(wanted, isolation_level=self._isolation, request_timeout=TIMEOUT_S)

    def answer(self) -> Ends | None:
        """The answer, once; None while it is under way, and where the broker does not give one."""
        if not self._futures or not all(future.done() for future in self._futures.values()):
            return None
        futures, self._futures = self._futures, {}
        try:
            offsets = {(tp.topic, tp.partition): future.result().offset for tp, future in futures.items()}
        except KafkaException:
            self._learn_leaders()
            return None
        return Ends(self._asked_ms, offsets)

    def _learn_leaders(self) -> None:
        """A broker that was restarted leads under another epoch; the client would ask with the old one for minutes."""
        with suppress(KafkaException):  # still away
            self._admin.list_topics(timeout=REFRESH_S)
