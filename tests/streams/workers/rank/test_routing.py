"""A ranking process chooses among the plans that can still answer in time."""

import pytest

from router_bandit.plans import Plan
from router_bandit.policy import Exploration
from router_bandit.value_model import ValueOptions
from streams.workers.rank.routing import HEADROOM, Routed, Router

CHEAP_MS, DEAR_MS = 2.0, 40.0


def router() -> Router:
    """Makes a router of two plans, whose costs it has measured."""
    plans = [Plan.single("light"), Plan.single("heavy")]
    made = Router(plans, exploration=Exploration(), values=ValueOptions(), initial_price=0.0, seed=0)
    for _ in range(300):
        for plan, spent_ms in (("light", CHEAP_MS), ("heavy", DEAR_MS)):
            made.measured(plan, 100, 64, spent_ms)
    return made


def route(of: Router, number: int, *, time_left_ms: float, ahead_ms: float = 0.0) -> Routed:
    return of.route(
        f"response-{number}",
        surface="feed",
        event_ms=0,
        candidates=100,
        log_length=64,
        load=0.1,
        device="phone",
        time_left_ms=time_left_ms,
        ahead_ms=ahead_ms,
    )


def test_with_time_enough_every_plan_is_explored() -> None:
    made = router()
    routed = [route(made, number, time_left_ms=10_000) for number in range(300)]
    assert {r.plan.name for r in routed} == {"light", "heavy"}
    assert {r.reason for r in routed} == {None}


def test_a_deadline_rules_out_what_would_take_too_long() -> None:
    made = router()
    routed = [route(made, number, time_left_ms=HEADROOM * DEAR_MS * 0.8) for number in range(100)]
    assert {(r.plan.name, r.reason) for r in routed} == {("light", "deadline")}


def test_what_the_batch_scores_before_takes_of_the_time_left() -> None:
    made, left = router(), HEADROOM * DEAR_MS * 1.5
    assert {route(made, n, time_left_ms=left).reason for n in range(20)} == {None}
    behind = [route(made, n, time_left_ms=left, ahead_ms=DEAR_MS) for n in range(20)]
    assert {(r.plan.name, r.reason) for r in behind} == {("light", "deadline")}


def test_where_no_plan_is_in_time_the_cheapest_answers() -> None:
    routed = route(router(), 0, time_left_ms=0.0)
    assert (routed.plan.name, routed.reason) == ("light", "deadline")
    assert routed.costs["light"] == pytest.approx(CHEAP_MS, rel=0.3)
