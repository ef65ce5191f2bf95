"""Redis away, or refusing writes, under traffic: nothing is lost, rewards are what was earned, logs stay short."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from confluent_kafka import KafkaException, TopicPartition
from msgspec import Struct
from redis import Redis

from feature_store.log import LogWant, UserLog
from streams.kafka.connection import watermarks
from streams.local.kafka import why_not
from streams.local.process import free_port
from streams.runtime.redis_client import PATIENT_S, connect
from streams.wire.codec import decode, encode
from streams.wire.messages import Conversion, Decision, Impression, LogRef, ModelVersion, Reward, Served, ServedItem
from streams.wire.record import Record
from streams.wire.topics import CONVERSIONS, DECISIONS, IMPRESSIONS, REWARDS, SERVED, TOPICS
from tests.e2e.running import RECIPE, House, running

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(why_not() is not None, reason=f"needs a broker that survives a kill: {why_not()}"),
]

RATE = 20.0
BID = 2.0
OUTAGE_S = 8.0
"""Longer than the reward window of the recipe, 3 s."""
REFUSAL_S = 10.0
LINES_MAX = 12
"""Lines of one worker about one outage of REFUSAL_S, at most: its begin, its end, and what it read again."""
PATIENCE_S = 120.0
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with running(tmp_path_factory.mktemp("outages"), ["ingest", "rewards"], broker="kafka", recipe=RECIPE) as up:
        yield up


@dataclass
class Traffic:
    """Rank's records and the ad system's. Every second response is clicked; every other click names its ad alone, so
    that the join decides it only once its clock has passed it."""

    house: House
    prefix: str
    earned: dict[str, float] = field(default_factory=dict)
    """Earnings by response id."""

    @contextmanager
    def running(self) -> Iterator[None]:
        stop = threading.Event()
        thread = threading.Thread(target=self._run, args=(stop,), name="traffic")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _run(self, stop: threading.Event) -> None:
        producer = self.house.kafka.producer()
        while not stop.wait(1 / RATE):
            name = f"{self.prefix}-{len(self.earned)}"
            for topic, message in _response(name, self.user, len(self.earned)):
                producer.produce(topic, encode(TOPICS[topic], message), self.user)
                assert producer.flush(60) == 0  # none overtakes another: what comes late may rightly not count
            self.earned[name] = BID if len(self.earned) % 2 == 0 else 0.0

    @property
    def user(self) -> str:
        return f"user of {self.prefix}"

    @property
    def events(self) -> int:
        """Impressions and clicks."""
        return len(self.earned) + sum(earned > 0 for earned in self.earned.values())


def _response(name: str, user: str, number: int) -> Iterator[tuple[str, Struct]]:
    now_ms = int(time.time() * 1000)
    yield (
        SERVED,
        Served(
            response_id=name, request_id=name, user=user, surface="feed", event_ms=now_ms, log=LogRef(), features={},
            context={}, items=[ServedItem(item=name, bid=BID)], plan="light", tier="light",
            model=ModelVersion(epoch=1, number=1),
        ),
    )  # fmt: skip
    yield (
        DECISIONS,
        Decision(
            response_id=name, user=user, event_ms=now_ms, plan="light", probabilities={"light": 1.0},
            values={"light": 1.0}, costs={"light": 1.0}, measured_ms=1.0, price=0.1, context={}, router_number=1,
        ),
    )  # fmt: skip
    yield (
        IMPRESSIONS,
        Impression(event_id=f"shown {name}", user=user, response_id=name, item=name, position=0, event_ms=now_ms + 1),
    )
    if number % 2 == 0:
        yield (
            CONVERSIONS,
            Conversion(
                event_id=f"click {name}", user=user, kind="click", event_ms=now_ms + 2, item=name,
                impression_id=f"shown {name}" if number % 4 == 0 else None,
            ),
        )  # fmt: skip


@pytest.mark.parametrize("outage", ["halted", "killed", "ingest killed"])
def test_what_was_decided_meanwhile_earns_what_it_earned(house: House, outage: str) -> None:
    traffic = Traffic(house, outage)
    with traffic.running():
        time.sleep(4.0)
        with out(house, outage):
            time.sleep(OUTAGE_S)
        time.sleep(4.0)
    rewards: list[Reward] = []
    wait_until(
        lambda: len({r.decision.response_id for r in rewards_of(house, traffic, rewards)}) == len(traffic.earned),
        "decisions have no reward",
    )
    time.sleep(3.0)  # in which late rewards would come
    rewards_of(house, traffic, rewards)
    assert {r.reward_id for r in rewards if r.late} == set()
    assert {r.decision.response_id: r.earned for r in rewards} == traffic.earned


@contextmanager
def out(house: House, outage: str) -> Iterator[None]:
    redis, ingest = house.stack.redis, house.workers["ingest"]
    if outage == "halted":
        os.kill(redis.pid, signal.SIGSTOP)
        yield
        os.kill(redis.pid, signal.SIGCONT)
    elif outage == "killed":
        redis.kill()
        yield
        redis.restart()
    else:
        ingest.child.kill()
        yield
        ingest.child.start()
        ingest.await_ready()


@contextmanager
def out_of_memory(redis: Redis) -> Iterator[str]:
    redis.config_set("maxmemory", 1)
    yield "maxmemory"
    redis.config_set("maxmemory", 0)


@contextmanager
def replica_of_nothing(redis: Redis) -> Iterator[str]:
    redis.config_set("replica-serve-stale-data", "yes")
    redis.replicaof("127.0.0.1", free_port())
    yield "TIDERANK_REDIS_URL"
    redis.replicaof("NO", "ONE")


@contextmanager
def cannot_save(redis: Redis) -> Iterator[str]:
    """A snapshot that fails: a folder stands where its file is to be."""
    in_the_way = Path(str(redis.config_get("dir")["dir"])) / "dump.rdb" / "x"
    in_the_way.mkdir(parents=True)
    redis.config_set("save", "1 1")
    wait_until(lambda: redis.info("persistence")["rdb_last_bgsave_status"] == "err", "Redis saved nevertheless")
    yield "disk"
    redis.config_set("save", "")
    in_the_way.rmdir()
    in_the_way.parent.rmdir()


@contextmanager
def no_replicas(redis: Redis) -> Iterator[str]:
    redis.config_set("min-replicas-to-write", 1)
    yield "min-replicas-to-write"
    redis.config_set("min-replicas-to-write", 0)


@pytest.mark.parametrize("refusal", [out_of_memory, replica_of_nothing, cannot_save, no_replicas])
def test_refused_writes_are_waited_for_quietly(
    house: House, refusal: Callable[[Redis], AbstractContextManager[str]]
) -> None:
    traffic = Traffic(house, refusal.__name__)
    redis = connect(house.stack.redis_url, timeout_s=PATIENT_S)
    user_log = UserLog(redis, house.settings.recipe.log)
    with traffic.running():
        time.sleep(1.0)
        logged = {name: lines(house, name) for name in house.workers}
        with refusal(redis) as advice:
            began = {name: cpu_s(house, name) for name in house.workers}
            time.sleep(REFUSAL_S)
            used = {name: cpu_s(house, name) - began[name] for name in house.workers}
        healed_s = time.monotonic()
        events = traffic.events
        wait_until(lambda: stored(user_log, traffic) >= events, "events of the outage are not stored")
        print(f"{refusal.__name__}: all stored {time.monotonic() - healed_s:.1f} s after it healed")
    wait_until(lambda: stored(user_log, traffic) == traffic.events, "events are lost")
    for name, before in logged.items():
        wait_until(lambda: "well again" in lines(house, name)[-1], f"{name} does not say that it is over")  # noqa: B023
        said = lines(house, name)[len(before) :]
        print(f"{name}: {len(said)} lines, {used[name]:.2f} s of CPU in {REFUSAL_S:.0f} s")
        assert len(said) <= LINES_MAX, f"{name} logged {len(said)} lines, such as {said[:3]}"
        assert any(advice in line for line in said)


def stored(user_log: UserLog, traffic: Traffic) -> int:
    (events,) = user_log.read([LogWant(traffic.user, 64)])
    return events.position.count


def lines(house: House, name: str) -> list[str]:
    return house.workers[name].child.log_path.read_text().splitlines()


def cpu_s(house: House, name: str) -> float:
    fields = Path(f"/proc/{house.workers[name].child.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


def rewards_of(house: House, traffic: Traffic, found: list[Reward]) -> list[Reward]:
    """All of this traffic, each once."""
    found.clear()
    reader, seen = house.kafka.reader(eof=False), set()
    for partition in house.kafka.partitions(REWARDS):
        first, end = watermarks(reader, REWARDS, partition)
        reader.assign([TopicPartition(REWARDS, partition, first)])
        for _ in range(end - first):
            message = reader.poll(10.0)
            if message is None or message.error() is not None:
                raise KafkaException(message and message.error())
            reward: Reward = decode(TOPICS[REWARDS], Record.of(message).value)
            if reward.decision.response_id in traffic.earned and reward.reward_id not in seen:
                seen.add(reward.reward_id)
                found.append(reward)
    reader.close()
    return found


def wait_until(reached: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.1)
