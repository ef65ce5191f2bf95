import pytest

from router_bandit.plans import Plan, Stage, check_plans, request_context


def test_work_of_a_cascade_shrinks_stage_by_stage() -> None:
    plan = Plan("three", (Stage("light"), Stage("medium", 0.25), Stage("heavy", 20)))
    assert plan.work(1000) == (("light", 1000), ("medium", 250), ("heavy", 20))
    assert plan.work(10) == (("light", 10), ("medium", 3), ("heavy", 3))  # a share is rounded up, a count is a bound
    assert plan.work(1) == (("light", 1), ("medium", 1), ("heavy", 1))
    assert plan.work(0) == (("light", 0), ("medium", 0), ("heavy", 0))
    assert plan.tier == "heavy"


def test_single_and_cascade_name_themselves() -> None:
    assert Plan.single("light") == Plan("light", (Stage("light"),))
    assert Plan.cascade("light", "heavy", keep=50) == Plan("light+heavy", (Stage("light"), Stage("heavy", 50)))


@pytest.mark.parametrize("keep", [0, -1, 0.0, 1.0, 2.5, True, float("nan")], ids=str)
def test_keep_that_is_neither_count_nor_share_is_refused(keep: float) -> None:
    with pytest.raises(ValueError, match="keep of tier 'heavy'"):
        Stage("heavy", keep)


def test_a_plan_that_does_not_score_all_first_is_refused() -> None:
    with pytest.raises(ValueError, match="first stage of plan 'x' must score all"):
        Plan("x", (Stage("light", 10),))
    with pytest.raises(ValueError, match="at least one stage"):
        Plan("x", ())


def test_plans_need_different_names() -> None:
    check_plans((Plan.single("light"), Plan.single("heavy")))
    with pytest.raises(ValueError, match="different names"):
        check_plans((Plan.single("light"), Plan.single("light")))
    with pytest.raises(ValueError, match="at least one plan"):
        check_plans(())


def test_request_context_buckets_by_powers_of_two() -> None:
    context = request_context(surface="feed", event_ms=3_600_000 * 25, candidates=100, log_length=0, load=1.7)
    assert context == {
        "surface": "feed",
        "device": "unknown",
        "hour": "1",
        "candidates": "7",
        "log": "0",
        "load": 1.0,
    }
