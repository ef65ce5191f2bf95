"""The rewards worker as a process of its own, between a real broker and a real Redis; ingest is the test."""

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition
from redis.asyncio import Redis

from router_bandit.windows import RewardWindows, Swept, WindowOptions
from streams.config.builtin import default
from streams.config.settings import Settings
from streams.kafka.connection import Kafka
from streams.kafka.scan import ends
from streams.local.kafka import why_not
from streams.local.stack import LocalStack, local_stack
from streams.runtime.redis_client import PATIENT_S, connect
from streams.runtime.service import Heartbeat
from streams.wire.codec import encode
from streams.wire.headers import MSGPACK
from streams.wire.messages import Decision, Outcome, Reward
from streams.wire.topics import DECISIONS, OUTCOMES, TOPICS
from streams.workers.router.rewards import GROUP, run_rewards
from tests.streams.group_offsets import delete_group, move_group
from tests.streams.workers.router.reward_wire import (
    RECIPE,
    T0,
    USERS,
    WINDOW_MS,
    Wire,
    decision,
    outcome,
    rewards_worker,
)

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    with local_stack(tmp_path_factory.mktemp("stack")) as stack:
        Kafka(stack.bootstrap, {}).create_topics()
        yield stack


@pytest.fixture
def wire(stack: LocalStack) -> Iterator[Wire]:
    wire = Wire(stack)
    yield wire
    wire.consumer.close()


def by_id(rewards: Sequence[Reward]) -> dict[str, tuple[float, int, bool]]:
    return {reward.reward_id: (reward.earned, reward.outcomes, reward.late) for reward in rewards}


def test_rewards_are_exactly_what_was_earned(stack: LocalStack, wire: Wire, tmp_path: Path) -> None:
    first: list[Decision | Outcome] = [
        decision("a", at=0, cost=2.0),
        decision("b", at=500, plan="heavy", cost=9.5),
        outcome("a1", "a", 1_000, 0.5),
        outcome("a1", "a", 1_000, 0.5),
        decision("a", at=0, cost=2.0),
        outcome("a2", "a", 9_999, 2.0),
        outcome("a3", "a", 10_000, 64.0),  # after its window, by its own time
        outcome("c1", "c", 800, 8.0),  # before its decision
        decision("c", at=700, plan="heavy", cost=9.0),
        outcome("d1", "never decided", 800, 8.0),
    ]
    with rewards_worker(stack, tmp_path):
        wire.send(*first)
        wire.move_clock(11_000)
        wire.until(lambda: len(wire.of("a", "b", "c")) >= 4)
        wire.send(outcome("b1", "b", 2_000, 0.25), outcome("b1", "b", 2_000, 0.25))
        wire.until(lambda: len(wire.of("a", "b", "c")) >= 5)
        wire.send(*first)  # all of it once more, after the windows closed
        wire.move_clock(12_000)
        wire.send(decision("last", at=1_000))
        wire.until(lambda: bool(wire.of("last")))
        wire.settle()
    rewards = wire.of("a", "b", "c", "never decided")
    assert by_id(rewards) == {
        "a": (2.5, 2, False),
        "a:a3": (64.0, 1, True),
        "b": (0.0, 0, False),
        "b:b1": (0.25, 1, True),
        "c": (8.0, 1, False),
    }
    assert len(rewards) == 5
    assert next(r for r in rewards if r.reward_id == "b").decision == decision("b", at=500, plan="heavy", cost=9.5)
    assert asyncio.run(aggregates(stack))["heavy"] == (2, 1, 18.5, 8.25)


async def aggregates(stack: LocalStack) -> dict[str, tuple[int, int, float, float]]:
    """(responses, late, cost, earned) by plan, of the minutes around T0."""
    async with Redis.from_url(stack.redis_url) as redis:
        rows = await RewardWindows(redis, WindowOptions()).aggregates(T0 - 60_000, T0 + 60_000)
    return {row.plan: (row.responses, row.late, row.cost_ms, row.earned) for row in rows}


def test_kill_and_restart_in_mid_stream_change_no_reward(stack: LocalStack, wire: Wire, tmp_path: Path) -> None:
    """Three kills of the worker and one of Redis, with all facts sent twice over."""
    facts: list[Decision | Outcome] = []
    for i in range(400):
        facts.append(decision(f"k{i}", at=20_000 + i, plan="kill", cost=0.5))
        facts += [outcome(f"k{i}.{j}", f"k{i}", 20_000 + i + 100 * j, float(j)) for j in range(i % 4)]
    parts = [facts[start::4] for start in range(4)]
    for part in parts[:3]:
        with rewards_worker(stack, tmp_path) as process:
            seen = len(wire.rewards)
            wire.send(*part)
            wire.move_clock(20_000 + WINDOW_MS + 200)
            wire.until(lambda seen=seen: len(wire.rewards) > seen)  # type: ignore[misc]
            process.send_signal(signal.SIGKILL)
            process.wait()
    wire.settle()
    with rewards_worker(stack, tmp_path):
        seen = len(wire.rewards)
        wire.send(*parts[3], *facts)
        wire.until(lambda: len(wire.rewards) > seen)  # it is at work: one that finds no Redis at its start ends
        stack.redis.kill()
        time.sleep(0.5)
        stack.redis.restart()
        wire.move_clock(20_000 + 10 * WINDOW_MS)
        expected = {f"k{i}": float(sum(range(i % 4))) for i in range(400)}
        wire.until(lambda: expected.keys() <= {r.reward_id for r in wire.rewards})
        wire.settle()
    rewards = wire.of(*expected)
    for reward_id, copies in group(rewards).items():
        assert all(copy == copies[0] for copy in copies), f"{reward_id} was produced with different contents"
    earned = dict.fromkeys(expected, 0.0)
    for copies in group(rewards).values():
        earned[copies[0].decision.response_id] += copies[0].earned
    assert earned == expected
    responses, _, cost, paid = asyncio.run(aggregates(stack))["kill"]
    assert (responses, cost, paid) == (400, 200.0, sum(expected.values()))


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_a_redis_that_forgot_all_is_told_again(stack: LocalStack, wire: Wire, tmp_path: Path, running: bool) -> None:
    """What was rewarded is not rewarded again and knows its late outcomes; what was open closes with all it earned."""
    began, mark = (100_000, "run") if running else (140_000, "stop")
    done, waiting = [f"{mark} done {i}" for i in range(20)], [f"{mark} open {i}" for i in range(20)]
    with ExitStack() as first:
        first.enter_context(rewards_worker(stack, tmp_path))
        for name in done:
            wire.send(decision(name, at=began), outcome(f"{name}.1", name, began + 1, 2.0))
        wire.move_clock(began + WINDOW_MS + 1)
        wire.until(lambda: len(wire.of(*done)) == len(done))
        for name in waiting:
            wire.send(decision(name, at=began + WINDOW_MS), outcome(f"{name}.1", name, began + WINDOW_MS + 1, 3.0))
        with connect(stack.redis_url, timeout_s=PATIENT_S) as redis:
            wire.until(lambda: all(redis.hexists(f"rw:{{main}}:r:{name}", "d") for name in waiting))
            if not running:
                time.sleep(2.0)  # committed, too
                first.close()
            redis.flushall()
        if not running:
            first.enter_context(rewards_worker(stack, tmp_path))
        wire.send(*(outcome(f"{name}.2", name, began + WINDOW_MS + 2, 4.0) for name in done + waiting))
        wire.move_clock(began + 2 * WINDOW_MS + 10)
        wire.until(lambda: len(wire.of(*waiting)) == len(waiting) and len(wire.of(*done)) == 2 * len(done))
        wire.settle()
    assert len(wire.of(*waiting)) == len(waiting)
    assert by_id(wire.of(*waiting)) == dict.fromkeys(waiting, (7.0, 2, False))
    assert len(wire.of(*done)) == 2 * len(done)
    late = {f"{name}:{name}.2": (4.0, 1, True) for name in done}
    assert by_id(wire.of(*done)) == dict.fromkeys(done, (2.0, 1, False)) | late


@pytest.mark.skipif(why_not() is not None, reason=f"deleting topics needs a real Kafka: {why_not()}")
@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_a_topic_made_anew_is_read_from_its_beginning(
    stack: LocalStack, wire: Wire, tmp_path: Path, running: bool
) -> None:
    """One that runs ends, for its client would take the new records for old ones."""
    began, mark = (300_000, "run") if running else (340_000, "stop")
    old, new = [f"{mark} old {i}" for i in range(40)], [f"{mark} new {i}" for i in range(4)]
    with ExitStack() as first:
        process = first.enter_context(rewards_worker(stack, tmp_path))
        wire.send(*(decision(name, at=began) for name in old))
        wire.move_clock(began + WINDOW_MS)
        wire.until(lambda: len(wire.of(*old)) == len(old))
        if not running:
            first.close()
        make_decisions_anew(stack)
        wire.send(*(decision(name, at=began + 20_000) for name in new))
        if running:
            assert process.wait(60) == 2
            assert "was deleted and made again" in (tmp_path / "rewards.log").read_text()
    with rewards_worker(stack, tmp_path):
        wire.move_clock(began + 20_000 + WINDOW_MS)
        wire.until(lambda: len(wire.of(*new)) == len(new))


def make_decisions_anew(stack: LocalStack) -> None:
    kafka = Kafka(stack.bootstrap, {})
    admin = kafka.admin()
    admin.delete_topics([DECISIONS], operation_timeout=30)[DECISIONS].result(60)
    while DECISIONS in admin.list_topics(timeout=10).topics:
        time.sleep(0.05)
    kafka.create_topics([TOPICS[DECISIONS]])


@pytest.mark.parametrize("to", ["second record", "end"])
def test_a_group_moved_by_an_operator_changes_nothing(stack: LocalStack, wire: Wire, tmp_path: Path, to: str) -> None:
    """It goes on where Redis stands, and says so to who looks at the group's lag."""
    names = [f"{to} {i}" for i in range(40)]
    with rewards_worker(stack, tmp_path):
        wire.send(*(decision(name, at=400_000) for name in names[:20]))
        wire.until(lambda: committed(stack) == ends_of_decisions(stack))
    wire.send(*(decision(name, at=400_000) for name in names[20:30]))
    moved = ends_of_decisions(stack) if to == "end" else {p: min(1, at) for p, at in committed(stack).items()}
    move_group(Kafka(stack.bootstrap, {}), GROUP, {(DECISIONS, p): offset for p, offset in moved.items()})
    with rewards_worker(stack, tmp_path):
        wire.until(lambda: committed(stack) == ends_of_decisions(stack))
        wire.send(*(decision(name, at=400_000) for name in names[30:]))
        wire.until(lambda: committed(stack) == ends_of_decisions(stack))
        wire.move_clock(400_000 + WINDOW_MS + 1)
        wire.until(lambda: len(wire.of(*names)) == len(names))
        wire.settle()
    assert len(wire.of(*names)) == len(names)


def test_a_group_that_was_deleted_pays_nothing_twice(stack: LocalStack, wire: Wire, tmp_path: Path) -> None:
    """Redis knows where it stands, and no longer what it rewarded days ago."""
    names = [f"deleted {i}" for i in range(20)]
    with rewards_worker(stack, tmp_path):
        wire.send(*(decision(name, at=500_000) for name in names[:10]))
        wire.until(lambda: committed(stack) == ends_of_decisions(stack))
        wire.move_clock(500_000 + WINDOW_MS + 1)
        wire.until(lambda: len(wire.of(*names)) == 10)
        wire.settle()
    connect(stack.redis_url).delete(*(f"rw:{{main}}:r:{name}" for name in names[:10]))
    delete_group(Kafka(stack.bootstrap, {}), GROUP)
    with rewards_worker(stack, tmp_path):
        wire.send(*(decision(name, at=600_000) for name in names[10:]))
        wire.until(lambda: committed(stack) == ends_of_decisions(stack))
        wire.move_clock(600_000 + WINDOW_MS + 1)
        wire.until(lambda: len(wire.of(*names)) >= len(names))
        wire.settle()
    assert len(wire.of(*names)) == len(names)


def group(rewards: Sequence[Reward]) -> dict[str, list[Reward]]:
    groups: dict[str, list[Reward]] = {}
    for reward in rewards:
        groups.setdefault(reward.reward_id, []).append(reward)
    return groups


def test_records_that_can_never_succeed_become_dead_letters(stack: LocalStack, wire: Wire, tmp_path: Path) -> None:
    good = decision("good", at=200_000)
    future = int(time.time() * 1000) + 10**9
    bad: list[tuple[str, bytes | None, str | None, str]] = [
        (DECISIONS, b"{", None, "not a Decision"),
        (DECISIONS, None, None, "a message is required"),
        (DECISIONS, b"\xff\xfe", None, "not a Decision"),
        (OUTCOMES, b'{"outcome_id": "x"}', None, "not a Outcome"),
        (OUTCOMES, b"[1, 2]", MSGPACK, "not a Outcome"),
        (OUTCOMES, b"{}", "text/plain", "content-type of router.outcomes must be"),
        (DECISIONS, encode(TOPICS[DECISIONS], decision("future", at=future - T0)), None, "event_ms must be at most"),
        (DECISIONS, encode(TOPICS[DECISIONS], decision("1970", at=T0 // 1000 - T0)), None, "event_ms must be at least"),
        (OUTCOMES, encode(TOPICS[OUTCOMES], outcome("1970", "good", at=-T0)), None, "event_ms must be at least"),
    ]
    with rewards_worker(stack, tmp_path):
        for topic, value, content_type, _ in bad:
            wire.send_raw(topic, value, content_type=content_type)
        wire.send(good)
        wire.send_raw(OUTCOMES, encode(TOPICS[OUTCOMES], outcome("g1", "good", 200_001), MSGPACK), content_type=MSGPACK)
        wire.move_clock(200_000 + WINDOW_MS)
        wire.until(lambda: bool(wire.of("good")) and len(wire.letters) >= len(bad))
        wire.settle()
    assert by_id(wire.of("good")) == {"good": (1.0, 1, False)}
    letters = {(r.header("topic"), r.value): r for r in wire.letters}
    assert len(wire.letters) == len(letters) == len(bad)
    for topic, value, content_type, reason in bad:
        letter = letters[topic, value or b""]
        assert (letter.header("reason") or "").startswith(reason)
        assert letter.header("worker") == "rewards"
        assert (letter.header("offset") or "").isdigit()
        assert letter.header("original-content-type") == content_type


def test_no_window_closes_while_the_join_is_held(stack: LocalStack, wire: Wire, tmp_path: Path) -> None:
    """In a house whose event time is the time of day: outcomes come from the join alone, and so may come much later."""
    now = int(time.time() * 1000) - T0
    names = [f"live {user}" for user in USERS]
    with rewards_worker(stack, tmp_path, RECIPE.replace('"event"', '"live"').replace(str(WINDOW_MS), "1000")):
        wire.send(*(decision(name, at=now, user=user) for name, user in zip(names, USERS, strict=True)))
        for user in USERS:
            wire.send_raw(DECISIONS, b"{", key=user)  # a refused record at its end must not hold a partition open
        wire.until(lambda: "stood still" in (tmp_path / "rewards.log").read_text())
        wire.settle()
        assert wire.of(*names) == []
        wire.send(*(outcome(f"o {name}", name, now + 10) for name in names))
        wire.move_clock(now + 1_000)
        wire.until(lambda: len(wire.of(*names)) == len(names))
        wire.settle()
    assert by_id(wire.of(*names)) == dict.fromkeys(names, (1.0, 1, False))
    assert "goes on" in (tmp_path / "rewards.log").read_text()


def test_the_in_memory_broker_will_do(tmp_path: Path) -> None:
    (tmp_path / "worker").mkdir()
    with local_stack(tmp_path / "stack", broker="memory") as stack:
        Kafka(stack.bootstrap, {}).create_topics()
        wire = Wire(stack)
        with rewards_worker(stack, tmp_path / "worker"):
            wire.send(decision("m", at=0), outcome("m1", "m", 10, 0.5))
            wire.move_clock(11_000)
            wire.until(lambda: bool(wire.of("m")))
        assert by_id(wire.of("m")) == {"m": (0.5, 1, False)}
        wire.consumer.close()


def test_a_fault_ends_the_worker_with_nothing_committed(
    stack: LocalStack, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(RewardWindows, "take", fail)
    settings = Settings(
        bootstrap=stack.bootstrap, redis_url=stack.redis_url, recipe=default(), snapshots="", instance="test"
    )
    before = committed(stack)
    wire.send(decision("never taken in"))
    with pytest.raises(RuntimeError, match="a fault of ours"):
        run_rewards(settings, threading.Event(), Heartbeat(None))
    assert committed(stack) == before


def test_it_ends_though_its_cancellation_is_swallowed(stack: LocalStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """As happens where an answer of Redis comes at the same moment."""
    swept = threading.Event()

    async def swallow(*_: object) -> Swept:
        swept.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        return Swept((), 0)

    monkeypatch.setattr(RewardWindows, "sweep", swallow)
    settings = Settings(
        bootstrap=stack.bootstrap, redis_url=stack.redis_url, recipe=default(), snapshots="", instance="test"
    )
    stop = threading.Event()
    worker = threading.Thread(target=run_rewards, args=(settings, stop, Heartbeat(None)), daemon=True)
    worker.start()
    assert swept.wait(60)
    stop.set()
    worker.join(60)
    assert not worker.is_alive()


def committed(stack: LocalStack) -> dict[int, int]:
    kafka = Kafka(stack.bootstrap, {})
    reader = Consumer({"bootstrap.servers": stack.bootstrap, "group.id": GROUP})
    places = [TopicPartition(DECISIONS, partition) for partition in kafka.partitions(DECISIONS)]
    offsets = {place.partition: max(0, place.offset) for place in reader.committed(places, timeout=10)}
    reader.close()
    return offsets


def ends_of_decisions(stack: LocalStack) -> dict[int, int]:
    return {partition: end for partition, (_, end) in ends(Kafka(stack.bootstrap, {}), DECISIONS).items()}


def test_the_worker_loads_no_torch() -> None:
    code = "import sys, streams.workers.router.rewards; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
