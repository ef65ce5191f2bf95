"""Reward windows, on every real Redis found here."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from router_bandit.windows import (
    NOWHERE,
    Closed,
    DecisionFact,
    Delivered,
    Forgotten,
    OutcomeFact,
    RewardWindows,
    WindowOptions,
)
from streams.local.server import Server

MINUTE = 60_000
T0 = 1_700_000_000_000 // MINUTE * MINUTE
OPTIONS = WindowOptions(window_ms=10_000)


def decision(response: str, at: int = 0, plan: str = "light", cost: float = 2.5, forced: bool = False) -> DecisionFact:
    return DecisionFact(response, T0 + at, plan, cost, forced, f"payload of {response}".encode())


def outcome(name: str, response: str, at: int, value: float = 1.0) -> OutcomeFact:
    return OutcomeFact(name, response, T0 + at, value)


def reward(response: str, earned: float, outcomes: int) -> Closed:
    return Closed(response, None, f"payload of {response}".encode(), earned, outcomes)


def late(response: str, name: str, earned: float) -> Closed:
    return Closed(response, name, f"payload of {response}".encode(), earned, 1)


def on_windows(server: Server, test: Callable[[RewardWindows, Redis], Awaitable[None]]) -> None:
    """Runs a test with windows on the emptied server."""

    async def run() -> None:
        async with Redis.from_url(server.address) as redis:
            await redis.flushall()
            await test(RewardWindows(redis, OPTIONS), redis)

    asyncio.run(run())


async def close_all(
    windows: RewardWindows, at: int, delivered: Mapping[tuple[str, int], int] = NOWHERE
) -> list[Closed]:
    swept = await windows.sweep(T0 + at, 1000)
    assert await windows.settle(swept.closed, delivered) == len(swept.closed)
    return list(swept.closed)


def test_a_window_closes_with_what_it_earned(server: Server) -> None:
    async def test(windows: RewardWindows, redis: Redis) -> None:
        taken = await windows.take(
            [decision("a"), decision("b", at=5_000)],
            [outcome("o1", "a", 1_000, 0.5), outcome("o2", "a", 9_999, 2.0), outcome("o3", "b", 6_000, 0.25)],
        )
        assert taken == ("decision", "decision", "matched", "matched", "matched")
        assert (await windows.sweep(T0 + 9_999, 10)).closed == ()
        assert await close_all(windows, 10_000) == [reward("a", 2.5, 2)]
        assert await windows.waiting() == 1
        assert await close_all(windows, 15_000) == [reward("b", 0.25, 1)]
        assert (await windows.sweep(T0 + 10**6, 10)).closed == ()
        assert await windows.waiting() == 0

    on_windows(server, test)


def test_an_outcome_waits_for_its_decision(server: Server) -> None:
    async def test(windows: RewardWindows, redis: Redis) -> None:
        assert (await windows.take([], [outcome("o1", "a", 500, 3.0)])) == ("early",)
        assert (await windows.sweep(T0 + 10**6, 10)).closed == ()
        assert (await windows.take([decision("a")], [])) == ("decision",)
        assert await close_all(windows, 10**6) == [reward("a", 3.0, 1)]

    on_windows(server, test)


def test_second_deliveries_change_nothing_at_any_time(server: Server) -> None:
    async def test(windows: RewardWindows, redis: Redis) -> None:
        batch = ([decision("a")], [outcome("o1", "a", 500, 3.0)])
        assert (await windows.take(*batch)) == ("decision", "matched")
        assert (await windows.take(*batch)) == ("duplicate", "duplicate")
        swept = await windows.sweep(T0 + 10_000, 10)
        assert (await windows.take(*batch)) == ("duplicate", "duplicate")
        assert await windows.settle(swept.closed) == 1
        assert await windows.settle(swept.closed) == 0
        assert (await windows.take(*batch)) == ("duplicate", "duplicate")
        assert (await windows.sweep(T0 + 10**6, 10)).closed == ()
        (row,) = await windows.aggregates(T0, T0 + MINUTE)
        assert (row.responses, row.earned, row.cost_ms) == (1, 3.0, 2.5)

    on_windows(server, test)


def test_what_comes_after_the_window_is_a_late_reward_of_its_own(server: Server) -> None:
    async def test(windows: RewardWindows, redis: Redis) -> None:
        await windows.take([decision("a")], [outcome("o1", "a", 500)])
        assert await close_all(windows, 10_000) == [reward("a", 1.0, 1)]
        after = [outcome("o3", "a", 900, 0.5), outcome("o2", "a", 20_000, 4.0), outcome("o2", "a", 20_000, 4.0)]
        assert (await windows.take([], after)) == ("late", "late", "duplicate")
        assert await close_all(windows, 10_000) == [late("a", "o2", 4.0), late("a", "o3", 0.5)]
        assert (await windows.sweep(T0 + 10**6, 10)).closed == ()
        (row,) = await windows.aggregates(T0, T0 + MINUTE)
        assert (row.responses, row.late, row.earned) == (1, 2, 5.5)

    on_windows(server, test)


def test_an_outcome_is_late_by_its_own_time_not_by_its_arrival(server: Server) -> None:
    async def test(windows: RewardWindows, redis: Redis) -> None:
        await windows.take([decision("a")], [outcome("in", "a", 9_999, 1.0), outcome("out", "a", 10_000, 7.0)])
        assert await close_all(windows, 10_000) == [reward("a", 1.0, 1)]
        assert await close_all(windows, 10_000) == [late("a", "out", 7.0)]

    on_windows(server, test)


def test_a_crash_between_sweep_and_settle_repeats_the_same_rewards(server: Server) -> None:
    async def test(windows: RewardWindows, redis: Redis) -> None:
        await windows.take([decision("a"), decision("b")], [outcome("o1", "a", 500)])
        first = await windows.sweep(T0 + 10_000, 10)
        # What comes between the two sweeps was not in the first: it must not slip into the second.
        assert (await windows.take([], [outcome("o2", "a", 600, 9.0)])) == ("late",)
        again = await RewardWindows(redis, OPTIONS).sweep(T0 + 10_000, 10)
        assert first.closed == again.closed == (reward("a", 1.0, 1), reward("b", 0.0, 0))
        assert await windows.settle(again.closed) == 2
        assert await close_all(windows, 10_000) == [late("a", "o2", 9.0)]

    on_windows(server, test)


def test_a_sweep_takes_no_more_than_its_limit_the_oldest_first(server: Server) -> None:
    async def test(windows: RewardWindows, redis: Redis) -> None:
        await windows.take([decision(f"r{i}", at=100 - i) for i in range(5)], [])
        swept = (await windows.sweep(T0 + 10**6, 2)).closed
        assert [closed.response_id for closed in swept] == ["r4", "r3"]
        await windows.settle(swept[:1])
        assert [c.response_id for c in (await windows.sweep(T0 + 10**6, 2)).closed] == ["r3", "r2"]

    on_windows(server, test)


def test_aggregates_are_by_minute_and_plan(server: Server) -> None:
    async def test(windows: RewardWindows, redis: Redis) -> None:
        odd = "a:b|c"  # a plan's name may hold what separates the stored fields
        await windows.take(
            [
                decision("a", at=0, plan="light", cost=2.0),
                decision("b", at=59_999, plan="light", cost=4.0, forced=True),
                decision("c", at=60_000, plan="light", cost=8.0),
                decision("d", at=0, plan=odd, cost=16.0),
            ],
            [outcome("o1", "a", 1, 0.25), outcome("o2", "b", 60_000, 0.5), outcome("o3", "d", 1, -1.0)],
        )
        await close_all(windows, 10**6)
        rows = [
            (row.minute_ms - T0, row.plan, row.responses, row.forced, row.cost_ms, row.earned)
            for row in await windows.aggregates(T0, T0 + 2 * MINUTE)
        ]
        assert rows == [
            (0, odd, 1, 0, 16.0, -1.0),
            (0, "light", 2, 1, 6.0, 0.75),
            (MINUTE, "light", 1, 0, 8.0, 0.0),
        ]
        assert len(await windows.aggregates(T0 + 1, T0 + 2 * MINUTE)) == 1  # the first minute begins before

    on_windows(server, test)


def test_any_order_and_any_repetition_pays_the_same_in_all(server: Server) -> None:
    """Each outcome is paid exactly once, in its window or late; in-window ones that came in time are in the window."""

    async def test(windows: RewardWindows, redis: Redis) -> None:
        rng = random.Random(5)
        decisions = [decision(f"r{i}", at=rng.randrange(20_000)) for i in range(60)]
        outcomes = [
            outcome(f"o{i}", d.response_id, d.event_ms - T0 + rng.randrange(20_000), float(2 ** (i % 20)))
            for i, d in enumerate(rng.choices(decisions, k=150))
        ]
        items: list[Any] = [*decisions, *outcomes, *rng.choices([*decisions, *outcomes], k=100)]
        rng.shuffle(items)
        paid: dict[str, Closed] = {}
        for step in range(0, len(items), 10):
            part = items[step : step + 10]
            await windows.take(
                [d for d in part if isinstance(d, DecisionFact)], [o for o in part if isinstance(o, OutcomeFact)]
            )
            for closed in await close_all(windows, 1000 * step // 10):
                assert paid.setdefault(closed.reward_id, closed) is closed
        while closed_now := await close_all(windows, 10**9):
            for closed in closed_now:
                assert paid.setdefault(closed.reward_id, closed) is closed
        earned = {d.response_id: 0.0 for d in decisions}
        for closed in paid.values():
            earned[closed.response_id] += closed.earned
        expected = {d.response_id: 0.0 for d in decisions}
        for o in outcomes:
            expected[o.response_id] += o.value
        assert earned == expected
        assert {c.response_id for c in paid.values() if not c.late} == set(expected)

    on_windows(server, test)


def test_a_batch_is_one_round_trip(server: Server) -> None:
    async def test(windows: RewardWindows, redis: Redis) -> None:
        await windows.take([decision("warm")], [])  # loads the functions
        await redis.config_resetstat()
        await windows.take([decision(f"r{i}") for i in range(200)], [outcome(f"o{i}", "r1", i) for i in range(200)])
        commands = await redis.info("commandstats")
        assert commands["cmdstat_fcall"]["calls"] == 1
        assert not [name for name in commands if name.startswith("cmdstat_function")]

    on_windows(server, test)


def test_functions_come_back_after_a_flush(server: Server) -> None:
    async def test(windows: RewardWindows, redis: Redis) -> None:
        await windows.take([decision("a")], [])
        await redis.function_flush()
        assert [closed.response_id for closed in await close_all(windows, 10_000)] == ["a"]

    on_windows(server, test)


def test_an_open_window_outlives_a_week_in_which_nobody_closes_it(server: Server) -> None:
    async def test(windows: RewardWindows, redis: Redis) -> None:
        known_ms = 1_000 * WindowOptions().state_ttl_s
        await windows.take([decision("a")], [outcome("o", "early", 0)])
        for response in ("a", "early"):
            assert await redis.pttl(f"rw:{{main}}:r:{response}") > known_ms + 6 * 86_400_000
        await close_all(windows, 10_000)
        assert 0 < await redis.pttl("rw:{main}:r:a") <= known_ms, "once it is rewarded it is known as long as before"

    on_windows(server, test)


def test_a_window_whose_state_ran_out_is_counted(server: Server) -> None:
    async def test(windows: RewardWindows, redis: Redis) -> None:
        await windows.take([decision("a"), decision("b")], [])
        assert await redis.pttl("rw:{main}:r:a") > 0
        await redis.delete("rw:{main}:r:a")
        swept = await windows.sweep(T0 + 10_000, 10)
        assert (swept.gone, [closed.response_id for closed in swept.closed]) == (1, ["b"])
        assert (await windows.sweep(T0 + 10_000, 10)).gone == 0

    on_windows(server, test)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_refused_with_its_batch(server: Server, bad: float) -> None:
    async def test(windows: RewardWindows, redis: Redis) -> None:
        with pytest.raises(ValueError, match="value of 'o1' must be finite"):
            await windows.take([decision("a")], [outcome("o1", "a", 1, bad)])
        with pytest.raises(ValueError, match="cost_ms of 'a' must be finite"):
            await windows.take([decision("a", cost=bad)], [])
        assert await windows.waiting() == 0

    on_windows(server, test)


def test_long_ids_keep_a_reward_id_within_bounds() -> None:
    assert late("r" * 10, "o" * 10, 1.0).reward_id == "r" * 10 + ":" + "o" * 10
    long = late("r" * 128, "o" * 128, 1.0).reward_id
    assert len(long) <= 128
    assert long != late("r" * 128, "o" * 127 + "p", 1.0).reward_id


@pytest.mark.parametrize("options", [{"window_ms": 0}, {"state_ttl_s": -1}, {"namespace": "a}b"}, {"namespace": ""}])
def test_options_out_of_bounds_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="got"):
        WindowOptions(**options)


def test_who_finds_other_positions_than_it_left_takes_and_closes_nothing(server: Server) -> None:
    async def test(windows: RewardWindows, redis: Redis) -> None:
        source, other = ("decisions", 0), ("decisions", 1)
        await windows.take([decision("a")], [], {source: (0, 5)})
        await windows.take([decision("b")], [], {source: (5, 9), other: (0, 2)})
        assert await windows.places() == {source: 9, other: 2}
        earlier = await redis.dump("rw:{main}:at")
        await windows.take([decision("c")], [], {source: (9, 12)})
        assert await windows.take([decision("c")], [], {source: (9, 12)}) == ("duplicate",)  # the answer was lost
        assert earlier is not None
        await redis.restore("rw:{main}:at", 0, earlier, replace=True)
        with pytest.raises(Forgotten):
            await windows.take([decision("d")], [], {other: (2, 3), source: (12, 13)})
        with pytest.raises(Forgotten):
            await windows.sweep(T0 + 10**6, 10, {source: 12, other: 2})
        assert await windows.waiting() == 3
        assert await windows.places() == {source: 9, other: 2}
        assert len((await windows.sweep(T0 + 10**6, 10, {source: 9, other: 2})).closed) == 3
        await redis.flushall()
        with pytest.raises(Forgotten):
            await windows.sweep(T0 + 10**6, 10, {source: 9})
        assert (await windows.sweep(T0 + 10**6, 10, {("decisions", 2): 0})).closed == ()  # nothing was read of it

    on_windows(server, test)


def delivered(closed: Closed) -> Delivered:
    """As it is read from its topic."""
    known = decision(closed.response_id)
    return Delivered(known, closed.reward_id, closed.earned, closed.outcomes, late=closed.late)


def test_an_emptied_redis_is_told_what_was_delivered_and_reads_the_rest_again(server: Server) -> None:
    """All is sent again; no reward is, nothing counts twice, and what was open or is late earns what it would have."""

    async def test(windows: RewardWindows, redis: Redis) -> None:
        rewards = ("rewards", 0)
        first = [outcome("o1", "a", 500), outcome("o2", "a", 600, 0.5), outcome("o3", "a", 10_001, 4.0)]
        await windows.take([decision("a"), decision("b"), decision("open", at=8_000)], first)
        told = await close_all(windows, 10_000, {rewards: 2}) + await close_all(windows, 10_000, {rewards: 3})
        assert [(c.reward_id, c.earned) for c in told] == [("a", 1.5), ("b", 0.0), ("a:o3", 4.0)]
        before = await windows.aggregates(T0, T0 + MINUTE)
        await redis.flushall()
        assert await windows.restore([delivered(c) for c in told], {rewards: 3}) == 3
        assert await windows.restore([delivered(c) for c in told], {rewards: 3}) == 0
        assert await windows.places() == {rewards: 3}
        again = [decision("a"), decision("b"), decision("open", at=8_000)]
        assert await windows.take(again, first) == ("duplicate", "duplicate", "decision", *3 * ["duplicate"])
        assert await close_all(windows, 10_000) == []
        assert await windows.aggregates(T0, T0 + MINUTE) == before
        after = [outcome("o4", "a", 700, 8.0), outcome("o5", "b", 20_000, 16.0), outcome("o6", "open", 9_000, 2.0)]
        assert await windows.take([], after) == ("late", "late", "matched")
        assert {c.reward_id: c.earned for c in await close_all(windows, 18_000)} == {
            "a:o4": 8.0,
            "b:o5": 16.0,
            "open": 2.0,
        }

    on_windows(server, test)


@pytest.mark.parametrize("closing", [False, True])
def test_a_redis_of_before_is_told_too(server: Server, closing: bool) -> None:
    """It has the window open, or swept and not settled, with one of the two outcomes that its reward counts."""

    async def test(windows: RewardWindows, redis: Redis) -> None:
        await windows.take([decision("a")], [outcome("o1", "a", 500), outcome("after", "a", 10_000, 4.0)])
        if closing:
            assert len((await windows.sweep(T0 + 10_000, 10)).closed) == 1
        told = Closed("a", None, b"payload of a", 3.0, 2)
        assert await windows.restore([delivered(told)]) == 1
        assert await windows.waiting() == 0
        both = [outcome("o1", "a", 500), outcome("o2", "a", 600, 2.0)]
        assert await windows.take([decision("a")], both) == ("duplicate",) * 3
        assert [c.reward_id for c in await close_all(windows, 10_000)] == ["a:after"]
        (row,) = await windows.aggregates(T0, T0 + MINUTE)
        assert (row.responses, row.late, row.earned) == (1, 1, 7.0)

    on_windows(server, test)


def test_keys_are_all_under_one_hash_tag(server: Server) -> None:
    async def test(windows: RewardWindows, redis: Redis) -> None:
        await windows.take([decision("a"), decision("b")], [outcome("o1", "a", 5)])
        await close_all(windows, 10_000)
        await windows.take([], [outcome("o2", "a", 6)])
        with SyncRedis.from_url(server.address) as plain:
            assert all(key.startswith(b"rw:{main}:") for key in plain.scan_iter())

    on_windows(server, test)


def test_a_user_forgotten_leaves_no_response_and_no_reward(server: Server) -> None:
    async def test(windows: RewardWindows, redis: Redis) -> None:
        await windows.take([decision("mine"), decision("theirs"), decision("settled")], [outcome("o", "named", 5)])
        assert await windows.forget(lambda payload: payload == b"payload of mine", ["named", "unknown"]) == 2
        assert {c.response_id for c in await close_all(windows, 10_000)} == {"theirs", "settled"}
        await windows.take([], [outcome("late", "settled", 5)])
        assert await windows.forget(lambda payload: payload == b"payload of settled") == 1
        assert (await windows.sweep(T0 + 10_000, 1000)).closed == ()
        assert await redis.keys("rw:{main}:r:*") == [b"rw:{main}:r:theirs"]
        assert await windows.forget(lambda payload: False) == 0

    on_windows(server, test)
