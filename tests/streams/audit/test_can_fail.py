"""The audit can fail in each of its lines: one record, or one byte of Redis, is taken out or falsified by hand."""

from collections.abc import Callable

import pytest
from redis import Redis

from feature_store.keys import OFFSETS, log_key
from router_bandit.windows import WindowOptions
from streams.wire.codec import decode
from streams.wire.messages import Reward
from streams.wire.topics import (
    CONVERSIONS,
    DEAD_LETTERS,
    DECISIONS,
    EXAMPLES,
    OUTCOMES,
    REQUESTS,
    RESPONSES,
    REWARDS,
    TOPICS,
    UPDATES,
)
from streams.workers.ingest.events import to_fact
from streams.workers.ingest.worker import GROUP as INGEST
from tests.streams.audit.history import KINDS, SECOND, TIMES
from tests.streams.audit.world import CLOSED, DUE, World

Spoil = Callable[[World], None]
CASES: dict[tuple[str, str], tuple[str, Spoil]] = {}
"""By section and line: the id that is named, and what is done."""


def spoils(section: str, line: str, names: str) -> Callable[[Spoil], Spoil]:
    def keep(spoil: Spoil) -> Spoil:
        CASES[section, line] = names, spoil
        return spoil

    return keep


def place(world: World, name: str) -> int:
    """Returns the index of an example among its topic's records."""
    ids = [decode(TOPICS[EXAMPLES], record.value).example_id for record in world.records[EXAMPLES]]
    return ids.index(name)


@spoils("requests", "unanswered", "asked q")
def _(world: World) -> None:
    world.take_out(RESPONSES, "asked q")


@spoils("requests", "responses_to_no_request", "asked q")
def _(world: World) -> None:
    world.take_out(REQUESTS, "asked q")


@spoils("events", "passed_unread", "lone")
def _(world: World) -> None:
    world.redis.hset(OFFSETS, f"{CONVERSIONS}:0", str(world.end(CONVERSIONS) - 1))


@spoils("events", "not_read", "lone")
def _(world: World) -> None:
    world.offsets[INGEST, CONVERSIONS] = world.end(CONVERSIONS) - 1


@spoils("events", "refused_without_dead_letter", f"{CONVERSIONS}[0]@0")
def _(world: World) -> None:
    world.records[DEAD_LETTERS].clear()


@spoils("user_logs", "lost", "lone")
def _(world: World) -> None:
    world.redis.delete(log_key("v"))


@spoils("user_logs", "stored_twice", "w")
def _(world: World) -> None:
    first = next(record for record in world.records[CONVERSIONS] if b'"s0"' in (record.value or b""))
    world.joiner.apply([to_fact(first, KINDS, TIMES)], {})


@spoils("user_logs", "of_no_event", "v")
def _(world: World) -> None:
    world.act("another", None, kind="search", item="a", user="v", at=2 * SECOND)
    world.take_out(CONVERSIONS, "another")


@spoils("joins", "delivered_again_changed", "click:j")
def _(world: World) -> None:
    world.put(EXAMPLES, world.records[EXAMPLES][place(world, "click:j")].value or b"")
    world.change(EXAMPLES, -1, item="a")


@spoils("joins", "missing", "click:j")
def _(world: World) -> None:
    world.take_out(EXAMPLES, "click:j")


@spoils("joins", "extra", "click:none")
def _(world: World) -> None:
    world.put(EXAMPLES, world.records[EXAMPLES][place(world, "click:j")].value or b"")
    world.change(EXAMPLES, -1, example_id="click:none")


@spoils("joins", "different", "click:j")
def _(world: World) -> None:
    world.change(EXAMPLES, place(world, "click:j"), item="a")


@spoils("joins", "overdue", "click:m")
def _(world: World) -> None:
    world.show("m", "a", user="y", response="later", at=CLOSED)
    world.serve("latest", user="y", at=2 * CLOSED)


@spoils("learned", "gaps", f"{UPDATES}[0]@2: 3 after 1 in epoch 1")
def _(world: World) -> None:
    world.open(1)
    world.update(1, 1, 0)
    world.update(1, 3, 0, previous=2)


@spoils("learned", "never_learned", f"{UPDATES}[0]@3: 1 examples of partition 0")
def _(world: World) -> None:
    world.open(1)
    world.update(1, 1, 0)
    world.open(2)
    world.update(2, 1, 1)
    world.update(2, 2, 0)  # and the next epoch goes on from there


@spoils("learned", "learned_beyond_the_end", "partition 0: 6 of 5")
def _(world: World) -> None:
    world.learned = world.end(EXAMPLES) + 1


@spoils("learned", "not_learned", "partition 0: 1 before 5")
def _(world: World) -> None:
    world.learned = world.end(EXAMPLES) - 1


@spoils("rewards", "not_read", "new")
def _(world: World) -> None:
    world.tell(DECISIONS, world.decide("new"))
    world.redis.hset(WindowOptions().places_key, f"{DECISIONS}:0", world.end(DECISIONS) - 1)


@spoils("rewards", "overdue", "new")
def _(world: World) -> None:
    world.tell(DECISIONS, world.decide("new"))
    world.redis.zadd(DUE, {"new": 0})


@spoils("rewards", "of_no_decision", "none")
def _(world: World) -> None:
    world.tell(REWARDS, Reward(reward_id="none", decision=world.decide("none"), earned=0.0, outcomes=0))


@spoils("rewards", "missing", "r")
def _(world: World) -> None:
    world.records[REWARDS].clear()


@spoils("rewards", "delivered_again_changed", "r")
def _(world: World) -> None:
    world.put(REWARDS, world.records[REWARDS][0].value or b"")
    world.change(REWARDS, -1, late=True)


@spoils("rewards", "outcomes_lost", "r")
def _(world: World) -> None:
    world.change(REWARDS, 0, outcomes=1)


@spoils("rewards", "outcomes_twice", "r")
def _(world: World) -> None:
    world.change(REWARDS, 0, outcomes=3)


@spoils("rewards", "earned_wrongly", "r")
def _(world: World) -> None:
    world.change(REWARDS, 0, earned=4.0)


@spoils("rewards", "examples_without_outcome", "click:k")
def _(world: World) -> None:
    world.take_out(OUTCOMES, "click:k")


@pytest.fixture
def world(redis: Redis) -> World:
    redis.flushall()
    return World(redis)


def test_a_house_that_did_all_right_is_ok_and_each_line_has_its_case(world: World) -> None:
    report = world.audit()
    assert report.ok, report.text()
    assert report.let_go == {}
    lines = {
        (section.title, line.name) for section in report.sections for line in section.lines if line.verdict == "fault"
    }
    assert lines == CASES.keys(), "a line without a case, or a case without its line"
    assert not [line for section in report.sections for line in section.lines if line.verdict == "unknown"]


@pytest.mark.parametrize("line", CASES, ids=".".join)
def test_each_line_fails_by_itself_and_names_what_is_wrong(
    world: World, line: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.audit.run.JOIN_HOLD_S", 0.0)  # no trainer is to come
    name, spoil = CASES[line]
    spoil(world)
    report = world.audit()
    assert not report.ok
    assert {(f["section"], f["name"]): f["ids"] for f in report.as_dict()["fault"]} == {line: [name]}, report.text()
