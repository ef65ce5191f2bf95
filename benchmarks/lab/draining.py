"""Requests that wait on the topic, and how fast a ranking worker answers them that waits for nobody."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from benchmarks.lab.house import by_process
from streams.client import RankingClient
from streams.kafka.connection import Kafka
from streams.kafka.scan import ends, read_topic
from streams.local.house import House
from streams.wire.codec import decode
from streams.wire.headers import MAX_DEADLINE_MS
from streams.wire.messages import RankingRequest
from streams.wire.topics import REQUESTS, RESPONSES, TOPICS


@dataclass(frozen=True, slots=True)
class Drained:
    """Figures of the requests behind the first tenth."""

    requests: int
    seconds: float
    milliseconds: dict[str, float]
    """Processor time a request, by process."""

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


def sent_requests(kafka: Kafka, candidates: int) -> list[RankingRequest]:
    """Requests on the topic that have so many candidates."""
    kept = (decode(TOPICS[REQUESTS], record.value) for record in read_topic(kafka, REQUESTS))
    return [request for request in kept if len(request.candidates) == candidates]


def preload(kafka: Kafka, like: Sequence[RankingRequest], count: int, name: str) -> int:
    """Puts so many requests on the topic, made like those; returns how many responses there were before."""
    before = _answered(kafka)
    with RankingClient(kafka, linger_ms=5) as client:
        for n in range(count):
            request = msgspec.structs.replace(like[n % len(like)], request_id=f"{name}-{n}")
            client.send(request, deadline_ms=MAX_DEADLINE_MS)
            if n % 1_000 == 0:
                client.flush(60)
        client.flush(60)
    return before


def drain(house: House, before: int, count: int, name: str) -> Drained:
    """Starts a ranking worker, and stops it when it has answered all."""
    house.start("rank")
    first = _await_answers(house, before + count // 10)
    used, began = by_process(house), time.monotonic()
    last = _await_answers(house, before + count)
    seconds, requests = time.monotonic() - began, last - first
    if not requests:
        raise SystemExit(f"all {count} requests were answered between two looks: send more of them")
    took = {name: 1000 * (s - used[name]) / requests for name, s in by_process(house).items()}
    house.stop_workers()
    answers = [decode(TOPICS[RESPONSES], record.value) for record in read_topic(house.kafka, RESPONSES)]
    scored = Counter((answer.status, answer.reason) for answer in answers if answer.request_id.startswith(name))
    if scored != {("ok", None): count}:
        raise SystemExit(f"all {count} requests must be scored, got {scored}: raise the deadline, or send fewer")
    return Drained(requests, seconds, took)


def _await_answers(house: House, count: int) -> int:
    """Returns how many there are, once there are at least so many."""
    while (there := _answered(house.kafka)) < count:
        if fallen := house.fallen():
            raise SystemExit("".join(fallen))
        time.sleep(0.2)
    return there


def _answered(kafka: Kafka) -> int:
    return sum(end for _, end in ends(kafka, RESPONSES).values())
