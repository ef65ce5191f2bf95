"""A log put together from its events: nothing twice, nothing lost that it alone has, and never over what it became."""

import pytest
from redis import Redis

from feature_store import ActionFact, JoinConfig, Joiner, LogConfig, LogGone, LogWant, LogWantAsOf, UserLog
from feature_store.facts import NO_LOG, Position
from feature_store.forget import forget_user
from feature_store.keys import log_key
from feature_store.rebuild import LogEntry, WholeLog, complete, read_whole, replace_log
from tests.feature_store.facts import action, record

LOG = LogConfig(length=40, slack=20, tags=8)


def entries(*numbers: int) -> list[LogEntry]:
    return [LogEntry(f"e{number}", record(number)) for number in numbers]


def store(redis: Redis, *numbers: int) -> list[bool]:
    """Appends events as ingest does. Whether each was stored."""
    facts = [action(f"e{number}", "log", names=None) for number in numbers]
    same = [
        ActionFact(**{name: getattr(fact, name) for name in fact.__slots__} | {"record": record(number)})
        for fact, number in zip(facts, numbers, strict=True)
    ]
    return [reply.stored for reply in Joiner(redis, LOG, JoinConfig()).apply(same, {})]


def held(redis: Redis) -> list[int]:
    [log] = UserLog(redis, LOG).read([LogWant("u", LOG.length)])
    return [int(item) for item in log.events["item"]]


def log_of(*numbers: int, count: int | None = None) -> WholeLog:
    return WholeLog(Position(7, len(numbers) if count is None else count), tuple(map(record, numbers)))


def test_an_action_of_no_item_is_held_with_any_and_comes_back_with_it() -> None:
    unnamed = LogEntry("e", record(99), names_item=False)
    assert complete(log_of(1, 2), [LogEntry("a", record(1)), unnamed], LOG) is None
    assert complete(log_of(1), [LogEntry("a", record(1)), unnamed], LOG) == [LogEntry("a", record(1)), unnamed]
    other = LogEntry("b", record(2), names_item=False)
    found = complete(log_of(1), [LogEntry("a", record(1), names_item=False), other], LOG)
    assert found is not None
    assert [entry.record for entry in found] == [record(1), record(2)]  # the one that is held is the very record
    found = complete(log_of(2), [LogEntry("a", record(1)), unnamed], LOG)
    assert found is not None
    assert [entry.record for entry in found] == [record(1), record(2)]


@pytest.mark.parametrize(
    ("log", "events", "wanted"),
    [
        (WholeLog(NO_LOG, ()), [], None),
        (WholeLog(NO_LOG, ()), [1, 2], [1, 2]),
        (log_of(1, 2, 3), [1, 2, 3], None),
        (log_of(1, 2, 3), [2, 3], None),
        (log_of(2, 1, 3), [1, 2, 3], None),  # another order is no lack
        (log_of(3), [1, 2, 3], [1, 2, 3]),
        (log_of(8, 9, 2), [1, 2], [8, 9, 1, 2]),  # what only the log has is older
        (log_of(5, 6, count=60), [3, 4, 5, 6], None),  # overwritten, not missing
        (log_of(5, 7, count=60), [3, 4, 5, 6, 7], [5, 6, 7]),
        (log_of(4, 4), [4, 4], None),
        (log_of(4), [4, 4], [4, 4]),  # two events that look alike
    ],
    ids=str,
)
def test_what_a_log_lacks(log: WholeLog, events: list[int], wanted: list[int] | None) -> None:
    found = complete(log, [LogEntry(f"e{i}", record(number)) for i, number in enumerate(events)], LOG)
    records = None if found is None else [entry.record for entry in found]
    assert records == (None if wanted is None else [record(number) for number in wanted])


def test_a_long_log_keeps_its_newest(redis: Redis) -> None:
    numbers = range(3 * LOG.capacity)
    wanted = complete(WholeLog(NO_LOG, ()), entries(*numbers), LOG)
    assert wanted is not None
    assert replace_log(redis, "u", NO_LOG, wanted, LOG)
    assert [int.from_bytes(r[4:12], "little") for r in read_whole(redis, "u", LOG).records] == list(numbers)[-60:]
    assert held(redis) == list(numbers)[-40:]


def test_a_log_that_was_replaced_goes_on_as_any_other(redis: Redis) -> None:
    store(redis, *range(5))
    before = read_whole(redis, "u", LOG)
    forget_user(redis, "u")
    assert replace_log(redis, "u", NO_LOG, entries(*range(5)), LOG)
    after = read_whole(redis, "u", LOG)
    assert after.records == before.records
    assert after.position.generation != before.position.generation
    assert UserLog(redis, LOG).read_as_of([LogWantAsOf("u", before.position, 5)]) == [LogGone("recreated")]
    assert store(redis, 4, 5) == [False, True]  # its newest events are recognized
    assert held(redis) == list(range(6))
    assert redis.ttl(log_key("u")) > 0


@pytest.mark.parametrize("meanwhile", ["appended", "forgotten", "made anew"])
def test_a_log_that_changed_meanwhile_is_not_replaced(redis: Redis, meanwhile: str) -> None:
    store(redis, 1, 2)
    seen = read_whole(redis, "u", LOG).position
    if meanwhile == "appended":
        store(redis, 3)
    else:
        forget_user(redis, "u")
    if meanwhile == "made anew":
        store(redis, 1, 2)
    now = held(redis)
    assert not replace_log(redis, "u", seen, entries(9), LOG)
    assert held(redis) == now
