"""The simulated ad system on a real broker, against a ranker that does what the real one cannot be made to do."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from streams.client import RankingClient
from streams.kafka.connection import Kafka
from streams.kafka.scan import read_topic
from streams.local.stack import local_stack
from streams.simulate.config import WorldConfig
from streams.simulate.driver import Commands, Phase, simulate
from streams.simulate.report import SimReport
from streams.simulate.world import World, sigmoid
from streams.wire.codec import decode
from streams.wire.messages import RankedItem, RankingRequest, RankingResponse
from streams.wire.topics import CONVERSIONS, IMPRESSIONS, TOPICS
from tests.streams.answering import answering

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    with local_stack(tmp_path_factory.mktemp("simulate"), broker="memory") as stack:
        kafka = Kafka(stack.bootstrap, {})
        kafka.create_topics()
        yield kafka


class Oracle:
    """Answers with the true probabilities; the first requests never, those that follow twice."""

    def __init__(self, world: World, *, twice: int = 0, never: int = 0) -> None:
        self._world = world
        self._twice, self._never = twice, never

    def __call__(self, request: RankingRequest, number: int) -> list[RankingResponse]:
        if number <= self._never:
            return []
        copies = 2 if number <= self._never + self._twice else 1
        return [self._response(request, f"{request.request_id}-{copy}") for copy in range(copies)]

    def _response(self, request: RankingRequest, response_id: str) -> RankingResponse:
        world = self._world
        user = world.user_ids.index(request.user)
        items = [world.item_ids.index(c.item) for c in request.candidates]
        device = str(request.context["device"])
        logits = world.click_logit(user, items, request.event_ms or 0, surface=request.surface, device=device)  # type: ignore[arg-type]
        ranked = sorted(zip(sigmoid(logits).tolist(), request.candidates, strict=True), key=lambda p: -p[0] * p[1].bid)
        return RankingResponse(
            response_id=response_id,
            request_id=request.request_id,
            status="ok",
            items=[RankedItem(item=c.item, pctr=p) for p, c in ranked[: request.top_k]],
        )


def oracle(
    kafka: Kafka, world: World, *, twice: int = 0, never: int = 0, nap_s: float = 0.0
) -> AbstractContextManager[None]:
    return answering(kafka, Oracle(world, twice=twice, never=never), nap_s=nap_s)


def world(seed: int, **changes: Any) -> World:
    return World(WorldConfig(**{"position_bias": 0.0, **changes}), seed=seed, start_ms=time.time_ns() // 1_000_000)


def run(kafka: Kafka, of: World, phases: list[Phase], prefix: str, **options: Any) -> SimReport:
    with RankingClient(kafka) as client:
        return simulate(client, of, phases, prefix=prefix, **{"drain_s": 3.0, **options})


def sent(kafka: Kafka, topic: str, prefix: str) -> list[str]:
    """Event ids of a run, as they stand on the topic."""
    ids = [decode(TOPICS[topic], record.value).event_id for record in read_topic(kafka, topic)]
    return [event_id for event_id in ids if event_id.startswith(f"{prefix}-")]


def test_what_it_reports_is_what_is_on_the_topics(kafka: Kafka) -> None:
    of = world(1, duplicate_share=0.2, reorder_share=0.1, conversion_delay_s=0.3)
    with oracle(kafka, of):
        report = run(kafka, of, [Phase(rate=100, requests=150)], "ledger")
    tally = report.measured
    assert tally.requests == 150 == sum(tally.responses.values())
    assert tally.responses == {"ok": 150}
    on_topics = sent(kafka, IMPRESSIONS, "ledger") + sent(kafka, CONVERSIONS, "ledger")
    assert sorted(set(on_topics)) == sorted(report.event_ids)
    assert len(on_topics) == len(report.event_ids) + tally.events["repeated"]
    assert tally.events["impression"] == 150 * of.config.shown == len(set(sent(kafka, IMPRESSIONS, "ledger")))
    assert tally.events["repeated"] > 50
    assert tally.events["overtaken"] > 20
    assert report.delivery_errors == 0


def test_the_truth_scores_as_well_as_anything_can(kafka: Kafka) -> None:
    of = world(2, explored=0.0)
    with oracle(kafka, of):
        summary = run(kafka, of, [Phase(rate=100, requests=100)], "truth").summary()["measured"]
    assert summary["ne_true"] == pytest.approx(summary["ne_oracle"], abs=1e-3)
    assert summary["ne_oracle"] < 0.95
    assert summary["value_of_best_page"] == pytest.approx(1.0, abs=1e-3)


def test_a_ranker_that_naps_delays_no_request_and_pays_for_the_wait(kafka: Kafka) -> None:
    of = world(3)
    with oracle(kafka, of, nap_s=1.0):
        tally = run(kafka, of, [Phase(rate=50, seconds=2.0)], "nap").measured
    assert tally.requests == pytest.approx(100, abs=2)
    # Closed-loop load would have seen one slow request; here all that were due in that second have waited.
    assert sum(ms > 100 for ms in tally.latency_ms) >= 35
    assert max(tally.latency_ms) > 900


def test_requests_answered_twice_or_never_are_counted(kafka: Kafka) -> None:
    of = world(4)
    with oracle(kafka, of, twice=7, never=5):
        report = run(kafka, of, [Phase(rate=100, requests=40)], "faults", drain_s=1.5)
    assert report.answered_again == 7
    assert report.summary()["measured"]["unanswered"] == 5
    # Of two answers the first is shown, and only that one.
    assert report.measured.events["impression"] == 35 * of.config.shown


def test_phases_are_counted_apart_and_commands_steer_them(kafka: Kafka) -> None:
    of, commands, said = world(5), Commands(), list[dict[str, Any]]()

    def steer(now: dict[str, Any]) -> None:
        said.append(now)
        if now["phase"] == "warm-up":
            commands.put("next")
        elif now["rate"] == 20:
            commands.put("rate 200")
        else:
            commands.put("stop")

    phases = [Phase(rate=100, name="warm-up"), Phase(rate=20, name="measured")]
    with oracle(kafka, of):
        report = run(kafka, of, phases, "steered", commands=commands, progress=steer)
    before, measured = report.phases
    assert (before.name, measured.name) == ("warm-up", "measured")
    # On a busy machine fewer leave in time, and never more than are due.
    assert 0 < before.requests <= 100 * before.seconds + 1
    assert 20 * measured.seconds + 1 < measured.requests <= 200 * measured.seconds + 1
    assert sum(before.responses.values()) + sum(measured.responses.values()) == before.requests + measured.requests
    assert {now["phase"] for now in said} >= {"warm-up", "measured"}


def test_a_wrong_command_is_named(kafka: Kafka) -> None:
    commands = Commands()
    commands.put("faster")
    of = world(6)
    with (
        pytest.raises(ValueError, match="commands are `rate N`, `poison SHARE`, `next` and `stop`, got 'faster'"),
        oracle(kafka, of),
    ):
        run(kafka, of, [Phase(rate=10, seconds=1)], "wrong", commands=commands)


def test_only_ads_that_are_alive_are_candidates(kafka: Kafka) -> None:
    of = world(7, life_s=2.0, candidates_min=4)
    number = {name: i for i, name in enumerate(of.item_ids)}
    asked: list[tuple[int, list[int]]] = []

    def note(request: RankingRequest, _: int) -> list[RankingResponse]:
        asked.append((request.event_ms or 0, [number[c.item] for c in request.candidates]))
        return []

    with answering(kafka, note):
        run(kafka, of, [Phase(rate=50, seconds=3.0)], "alive", drain_s=0.5)
    assert len(asked) > 30
    assert all(of.alive(event_ms)[items].all() for event_ms, items in asked)
    assert len({i for _, items in asked for i in items}) > 2 * int(of.alive(asked[0][0]).sum())


def test_a_rate_must_be_positive() -> None:
    with pytest.raises(ValueError, match="rate must be in"):
        Phase(rate=0)
