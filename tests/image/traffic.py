"""What an ad system does to the running services from this machine, and what is seen of it from outside them."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from confluent_kafka import ConsumerGroupTopicPartitions

from streams.client import RankingClient
from streams.kafka.connection import Kafka
from streams.wire.messages import Candidate, Conversion, Impression, RankingRequest, RankingResponse

PACE_S = 0.2
DEADLINE_MS = 60_000
"""Longer than any pause of a busy machine: this is no measurement of speed."""

__all__ = ["Round", "committed", "send_round"]


@dataclass(frozen=True, slots=True)
class Round:
    responses: list[RankingResponse]
    clicks: int
    purchases: int

    @property
    def answered(self) -> int:
        return sum(response.status == "ok" for response in self.responses)

    @property
    def newest(self) -> tuple[int, int]:
        """Epoch and number of the weights that scored the last answer."""
        versions = [response.model for response in self.responses if response.model is not None]
        return (versions[-1].epoch, versions[-1].number) if versions else (0, 0)


def send_round(kafka: Kafka, name: str, requests: int) -> Round:
    """Each answer's first two ads are shown; of every second answer one is clicked, of every fourth it is bought.

    At a steady pace: a click is learned only beside what was not clicked, which is known two seconds later.
    """
    with RankingClient(kafka) as client:
        responses = [_ask(client, f"{name}-{number}", f"user-{number % 10}") for number in _paced(requests)]
        client.flush()
    return Round(responses, clicks=-(-requests // 2), purchases=-(-requests // 4))


def _paced(count: int) -> Iterator[int]:
    for number in range(count):
        yield number
        time.sleep(PACE_S)


def _ask(client: RankingClient, request_id: str, user: str) -> RankingResponse:
    candidates = [Candidate(item=f"ad-{i}", features={"category": f"c-{i % 3}", "price": 1.0 + i}) for i in range(8)]
    request = RankingRequest(request_id=request_id, user=user, candidates=candidates, context={"device": "phone"})
    response = client.rank(request, timeout_s=DEADLINE_MS / 1000, deadline_ms=DEADLINE_MS)
    number = int(request_id.rpartition("-")[2])
    for position, item in enumerate(response.items[:2]):
        shown = Impression(
            event_id=f"{request_id}-{position}",
            user=user,
            response_id=response.response_id,
            item=item.item,
            position=position,
            event_ms=_now_ms(),
        )
        client.send_impression(shown)
        if position == 0:
            _follow(client, shown, clicked=number % 2 == 0, bought=number % 4 == 0)
    return response


def _follow(client: RankingClient, shown: Impression, *, clicked: bool, bought: bool) -> None:
    for kind, happened in (("click", clicked), ("purchase", bought)):
        if happened:
            conversion = Conversion(
                event_id=f"{shown.event_id}-{kind}",
                user=shown.user,
                kind=kind,
                impression_id=shown.event_id,
                event_ms=_now_ms(),
                value=9.5 if kind == "purchase" else 0.0,
            )
            client.send_conversion(conversion)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def committed(kafka: Kafka) -> dict[str, int]:
    """The offsets that our groups have committed, by "group topic[partition]"."""
    admin, offsets = kafka.admin(), {}
    groups = [group.group_id for group in admin.list_consumer_groups().result().valid]
    for group in sorted(group for group in groups if group.startswith("tiderank-")):
        (future,) = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)]).values()
        for place in future.result().topic_partitions:
            offsets[f"{group} {place.topic}[{place.partition}]"] = place.offset
    return offsets
