"""Rates measured on a real broker against a ranker that does what the real one cannot be made to do."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from streams.client import RankingClient
from streams.errors import StreamError
from streams.kafka.connection import Kafka
from streams.kafka.scan import read_topic
from streams.load.measure import LoadOptions, Row, measure
from streams.local.stack import local_stack
from streams.simulate.config import demo
from streams.simulate.world import World
from streams.wire.messages import RankedItem, RankingRequest, RankingResponse, Timings
from streams.wire.topics import CONVERSIONS, IMPRESSIONS
from tests.streams.answering import answering

pytestmark = pytest.mark.e2e

Floats = npt.NDArray[np.float64]

OPTIONS = LoadOptions(seconds=2.0, candidates=5, users=10, pacing="uniform")


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    with local_stack(tmp_path_factory.mktemp("load"), broker="memory") as stack:
        kafka = Kafka(stack.bootstrap, {})
        kafka.create_topics()
        yield kafka


def test_its_users_are_no_simulated_ad_system_s() -> None:
    """A log that is filled at once forgets what came before: an event sent again meanwhile would be stored twice."""
    theirs = World(demo(), seed=OPTIONS.seed)
    assert not set(OPTIONS.world().user_ids) & set(theirs.user_ids)


def scored(request: RankingRequest, number: int) -> list[RankingResponse]:
    items = [RankedItem(item=candidate.item, pctr=0.1) for candidate in request.candidates[: request.top_k]]
    timings = Timings(decode=0.1, fetch=0.2, route=0.3, score=4.0)
    found = RankingResponse(
        response_id=f"{request.request_id}-r",
        request_id=request.request_id,
        status="ok",
        items=items,
        tier="only",
        timings=timings,
    )
    return [found]


def fallback_every_fourth(request: RankingRequest, number: int) -> list[RankingResponse]:
    if number % 4:
        return scored(request, number)
    response_id = f"{request.request_id}-r"
    return [
        RankingResponse(response_id=response_id, request_id=request.request_id, status="fallback", reason="expired")
    ]


def nothing_every_tenth(request: RankingRequest, number: int) -> list[RankingResponse]:
    return scored(request, number) if number % 10 else []


def load(kafka: Kafka, rate: float, prefix: str, **changes: Any) -> Row:
    options = replace(OPTIONS, **changes)
    with RankingClient(kafka) as client:
        return measure(client, options.world(), rate, options, prefix=prefix)


def test_a_ranker_that_keeps_up_is_reported_as_it_is(kafka: Kafka) -> None:
    with answering(kafka, scored):
        row = load(kafka, 50, "well")
    found = row.as_dict()
    assert (found["requests"], found["timeouts"], found["fallbacks"]) == (100, 0, {})
    assert found["in_time_share"] == 1
    assert found["rate_reached"] == pytest.approx(50, rel=0.03)
    assert found["tier_share"] == {"only": 1}
    assert found["phases_ms"] == pytest.approx({"decode": 0.1, "fetch": 0.2, "route": 0.3, "score": 4.0}, rel=0.01)
    assert 0 < found["latency_ms"]["p50"] <= found["latency_ms"]["p99"] <= 1.01 * found["latency_ms"]["max"]


def test_a_stall_is_paid_by_every_request_that_was_due_in_it(kafka: Kafka) -> None:
    with answering(kafka, scored, nap_s=1.0):
        row = load(kafka, 50, "stall")
    # A closed loop would have sent one request into the stall, and seen it in p99 alone. Here half of all were due in
    # it, evenly: their latencies run from 1 s down to nothing.
    p25, p75, p90 = (row.latency.percentile(percent) or 0.0 for percent in (25, 75, 90))
    assert p25 < p75 < p90
    assert p75 > 200
    assert (row.latency.max or 0.0) > 600
    assert row.sent == 100


def test_a_request_that_is_never_answered_counts_with_the_time_out(kafka: Kafka) -> None:
    with answering(kafka, nothing_every_tenth):
        row = load(kafka, 50, "never", deadline_ms=1_500, timeout_ms=3_000)
    assert (row.timeouts, row.in_time, row.latency.count) == (10, 90, 100)
    assert row.latency.percentile(95) == pytest.approx(3_000, rel=0.01)


def test_an_answer_after_the_time_out_is_none(kafka: Kafka) -> None:
    with answering(kafka, scored, nap_s=1.0):
        row = load(kafka, 50, "late", deadline_ms=200, timeout_ms=500)
    assert row.timeouts >= 17
    assert 0 < row.in_time <= 68
    assert row.latency.max == 500


def test_fallbacks_are_counted_by_reason_and_are_not_in_time(kafka: Kafka) -> None:
    with answering(kafka, fallback_every_fourth):
        row = load(kafka, 50, "fallback")
    assert row.unscored == {"expired": 25}
    assert (row.in_time, row.timeouts, row.tiers.total()) == (75, 0, 75)


def test_nobody_answers_and_that_is_said(kafka: Kafka) -> None:
    with pytest.raises(StreamError, match="none of 20 requests was answered within 300 ms; check that `tiderank rank`"):
        load(kafka, 10, "nobody", deadline_ms=200, timeout_ms=300)


@pytest.mark.parametrize("events", [True, False])
def test_what_is_answered_is_shown_only_if_events_are_wanted(kafka: Kafka, events: bool) -> None:
    prefix = f"events-{events}"
    with answering(kafka, scored):
        load(kafka, 20, prefix, events=events)
    sent = [r for topic in (IMPRESSIONS, CONVERSIONS) for r in read_topic(kafka, topic) if prefix in str(r.value)]
    assert (len(sent) >= 4 * 40) if events else not sent


def test_the_rate_reached_is_less_where_answers_fall_behind() -> None:
    due_s = np.arange(1000) / 100

    def reached(read_s: Floats) -> float:
        row = Row(rate=100, seconds=10, deadline_ms=1_000, timeout_ms=5_000, read_s=read_s.tolist())
        for latency_ms in 1000 * (read_s - due_s):
            row.latency.record(latency_ms)
        return row.reached()

    assert reached(due_s + 0.03) == pytest.approx(100, rel=0.001)
    assert reached(due_s * 1.1) == pytest.approx(
        95, abs=1
    )  # it serves 91 a second, and is half a second behind at last


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"candidates": 0}, "candidates must be 1 to 2000"),
        ({"candidates": 2001}, "candidates must be 1 to 2000"),
        ({"users": 0}, "users must be 1 to 1000000, got 0"),
        ({"deadline_ms": 6_000}, "an answer that is still in time must not count as none"),
    ],
)
def test_senseless_options_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(OPTIONS, **changes)
