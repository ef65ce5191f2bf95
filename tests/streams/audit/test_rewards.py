"""Rewards against decisions and outcomes."""

import msgspec
import pytest
from msgspec import Struct
from redis import Redis

from router_bandit.windows import WindowOptions
from streams.audit.joins import OVERDUE_MS
from streams.audit.patience import Patience
from streams.audit.report import Section
from streams.audit.rewards import Rewards
from streams.wire.codec import encode
from streams.wire.messages import Decision, Outcome, Reward
from streams.wire.record import Record
from streams.wire.topics import DECISIONS, OUTCOMES, REWARDS, TOPICS
from tests.streams.audit.history import SECOND, T0, History, counts, faults

WINDOW = 10 * SECOND
PREFIX = WindowOptions().prefix


def decision(name: str = "r", at: int = 0) -> Decision:
    return Decision(
        response_id=name, user="u", event_ms=T0 + at, plan="light", probabilities={"light": 1.0}, values={}, costs={},
        measured_ms=1.0, price=0.0, context={}, router_number=0,
    )  # fmt: skip


def outcome(name: str, response: str = "r", value: float = 1.5) -> Outcome:
    return Outcome(outcome_id=name, response_id=response, user="u", kind="click", value=value, event_ms=T0 + 1)


def reward(earned: float = 0.0, outcomes: int = 0, *, late: str | None = None, response: str = "r") -> Reward:
    name = response if late is None else f"{response}:{late}"
    return Reward(reward_id=name, decision=decision(response), earned=earned, outcomes=outcomes, late=late is not None)


def audited(
    redis: Redis,
    facts: list[Decision | Outcome],
    rewards: list[Reward],
    *,
    read: int = 9,
    now: int = 3600 * SECOND,
    held: bool = False,
) -> Section:
    """read: so many of the facts' records the rewards worker has surely taken in."""
    audit = Rewards((), {(DECISIONS, 0): read, (OUTCOMES, 0): read}, window_ms=WINDOW, wall_lag_ms=0)
    for offset, each in enumerate(rewards):
        audit.add_reward(record(REWARDS, each, offset))
    for offset, fact in enumerate(facts):
        audit.add_fact(record(DECISIONS if isinstance(fact, Decision) else OUTCOMES, fact, offset))
    frontier = {(DECISIONS, 0): read, (OUTCOMES, 0): read}
    audit.settle(frontier, ())
    audit.compare(redis, T0 + now, read_on=list, catch_up=list, patience=Patience(0.0))
    return audit.section(facts_whole=True, rewards_whole=True, held=held)


def record(topic: str, message: Struct, offset: int) -> Record:
    return Record(topic, 0, offset, T0, None, encode(TOPICS[topic], message), ())


@pytest.fixture(autouse=True)
def _empty(history: History) -> None:
    """Every test begins with an empty Redis."""


def test_each_decision_has_one_reward_with_each_outcome_in_it(redis: Redis) -> None:
    facts: list[Decision | Outcome] = [decision(), decision("s"), outcome("o", value=1.5), outcome("p", value=2.0)]
    rewards = [reward(1.5, 1), reward(2.0, 1, late="p"), reward(response="s")]
    section = audited(redis, facts, rewards)
    assert faults(section) == {}
    assert counts(section) == {"decisions": 2, "outcomes": 2, "rewarded": 2, "late": 1}


def test_a_missing_reward_is_named_where_its_window_stands_no_more(redis: Redis) -> None:
    facts: list[Decision | Outcome] = [decision()]
    assert faults(audited(redis, facts, [])) == {"missing": ("r",)}
    assert faults(audited(redis, facts, [], read=0)) == {"not_read": ("r",)}
    redis.zadd(f"{PREFIX}due", {"r": 0})
    section = audited(redis, facts, [], now=WINDOW + OVERDUE_MS)
    assert (faults(section), counts(section)["pending"]) == ({}, 1)
    assert faults(audited(redis, facts, [], now=WINDOW + OVERDUE_MS + 1)) == {"overdue": ("r",)}, "nothing sweeps"
    section = audited(redis, facts, [], held=True)
    assert (faults(section), counts(section)["overdue"]) == ({}, 1), "nothing may"


def test_a_reward_delivered_again_must_be_the_same(redis: Redis) -> None:
    section = audited(redis, [decision()], [reward(), reward()])
    assert (faults(section), counts(section)["delivered_again"]) == ({}, 1)
    changed = msgspec.structs.replace(reward(), earned=1.0)
    assert faults(audited(redis, [decision()], [reward(), changed])) == {"delivered_again_changed": ("r",)}


@pytest.mark.parametrize(
    ("rewards", "fault"),
    [
        ([reward(0.0, 0)], "outcomes_lost"),
        ([reward(1.5, 1), reward(1.5, 1, late="o")], "outcomes_twice"),
        ([reward(2.5, 1)], "earned_wrongly"),
    ],
)
def test_an_outcome_is_in_one_reward_with_its_value(redis: Redis, rewards: list[Reward], fault: str) -> None:
    assert faults(audited(redis, [decision(), outcome("o")], rewards)) == {fault: ("r",)}


def test_a_late_outcome_that_waits_is_not_lost(redis: Redis) -> None:
    redis.zadd(f"{PREFIX}late", {"r": 0})
    assert faults(audited(redis, [decision(), outcome("o")], [reward()])) == {}


def test_a_reward_of_no_decision_is_named(redis: Redis) -> None:
    assert faults(audited(redis, [], [reward()])) == {"of_no_decision": ("r",)}
