"""kill -9 of every part under load: all is answered, nothing is lost or stored twice, by the audit from outside.

A kill is timed so that it bites: the process is halted, and killed only if it has done something that it has not yet
committed; else it goes on for a moment and is halted again.
"""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest

from feature_store.join import Joiner
from ranker.snapshots.snapshot import list_snapshots
from streams.audit import AuditReport, run_audit
from streams.client import RankingClient
from streams.kafka import scan
from streams.kafka.connection import SESSION_TIMEOUT_MS
from streams.local.kafka import why_not
from streams.local.process import Child
from streams.runtime.redis_client import connect
from streams.simulate.config import demo
from streams.simulate.driver import Commands, Phase, simulate
from streams.simulate.report import SimReport
from streams.simulate.world import World
from streams.wire.messages import Candidate, RankingRequest
from streams.wire.topics import (
    CONVERSIONS,
    DECISIONS,
    IMPRESSIONS,
    OUTCOMES,
    REQUESTS,
    RESPONSES,
    REWARDS,
    ROUTER_MODEL,
    SERVED,
    UPDATES,
)
from streams.workers.ingest import worker as ingest
from streams.workers.rank import worker as rank
from tests.e2e.running import House, check_alive, running

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(why_not() is not None, reason=f"needs a broker that survives a kill: {why_not()}"),
]

RATE = 8.0
BURST = 40
PATIENCE_S = 180.0
"""Seconds for a worker's restart on a busy machine; importing torch alone takes a while there."""
WAITING = (("requests", "pending"), ("events", "not_read"), ("joins", "pending"), ("rewards", "pending"))
ARRIVAL_S = 0.1
"""Seconds in which what a halted process had sent, commits included, reaches the broker."""
REWARDS_GROUP = "tiderank-rewards"  # streams.workers.router.rewards imports Faust


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    home = tmp_path_factory.mktemp("faults")
    with running(home, ["rank", "ingest", "train", "rewards", "learn"], broker="kafka") as up:
        yield up


@dataclass
class Load:
    """A simulated ad system at a steady rate, in a thread of its own."""

    house: House
    prefix: str
    report: SimReport | None = None
    _commands: Commands = field(default_factory=Commands)

    def run(self) -> None:
        world = World(replace(demo(), candidates_median=30, candidates_max=60, conversion_delay_s=1.0), seed=1)
        with RankingClient(self.house.kafka) as client:
            phases = [Phase(rate=RATE)]
            self.report = simulate(
                client, world, phases, prefix=self.prefix, commands=self._commands, drain_s=PATIENCE_S
            )

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self.run, name="load")
        thread.start()
        try:
            yield
        finally:
            self._commands.put("stop")
            thread.join()


def test_kill_9_of_each_worker_in_turn(house: House) -> None:
    before, load = run_audit(house.settings), Load(house, "workers")
    repeated = end(house, RESPONSES) - end(house, REQUESTS)
    with load.running():
        time.sleep(3.0)
        kill_rank(house, repeated)
        kill(house, "ingest", undone=lambda: read_again(house), working=lambda: sum(stored(house).values()))
        kill(house, "train", undone=lambda: unsaved(house), working=lambda: end(house, UPDATES))
        kill(house, "rewards", undone=lambda: unread_by_rewards(house), working=lambda: end(house, REWARDS))
        kill(house, "learn", undone=lambda: 1, working=lambda: end(house, ROUTER_MODEL))
        time.sleep(3.0)
    check_alive(house)
    after = settled_audit(house)
    check(before, after, load.report)
    assert after.count("requests", "answered_again") > before.count("requests", "answered_again")
    assert after.count("learned", "examples_learned_again") > before.count("learned", "examples_learned_again")


def test_kill_9_of_redis(house: House) -> None:
    before, load = run_audit(house.settings), Load(house, "redis")
    with load.running():
        time.sleep(3.0)
        killed_s = time.monotonic()
        house.stack.redis.kill()
        time.sleep(1.0)  # requests of this second get fallbacks
        house.stack.redis.restart()
        await_ok(house)
        say("redis", killed_s)
        time.sleep(2.0)
    check_alive(house)
    after = settled_audit(house)
    check(before, after, load.report)
    fallbacks = after.count("requests", "fallback_redis_away") - before.count("requests", "fallback_redis_away")
    print(f"redis: {fallbacks} requests had a fallback because it was away")
    assert fallbacks > 0


def test_kill_9_of_the_broker(house: House) -> None:
    before, load = run_audit(house.settings), Load(house, "broker")
    with load.running():
        time.sleep(3.0)
        killed_s = time.monotonic()
        house.stack.broker.kill()
        time.sleep(0.5)
        house.stack.broker.restart()
        await_ok(house, meanwhile=lambda: restart_ended(house))
        say("broker", killed_s)
        time.sleep(SESSION_TIMEOUT_MS / 1000)
    restart_ended(house)
    check(before, settled_audit(house), load.report)
    said = {log.stem: log.read_text() for log in (house.home / "logs").glob("*-local.log")}
    assert "kafka: " in said["ingest-local"]
    assert not {name for name, text in said.items() if len(text.splitlines()) > 200}, "each try was logged"


def kill_rank(house: House, repeated: int) -> None:
    """In the midst of a burst: it has answered a micro-batch whose offsets it has not committed.

    repeated: responses so far beyond one a request.
    """
    with RankingClient(house.kafka) as client:
        for number in range(BURST):
            candidates = [Candidate(item=f"item-{n}") for n in range(30)]
            client.send(
                RankingRequest(request_id=f"burst-{time.time_ns()}-{number}", user=f"b{number}", candidates=candidates)
            )
        client.flush()

    def undone() -> int:
        return end(house, RESPONSES) - repeated - committed(house, rank.GROUP, REQUESTS)

    kill(house, "rank", undone=undone, working=lambda: end(house, RESPONSES))
    await_ok(house)


def kill(house: House, name: str, *, undone: Callable[[], int], working: Callable[[], int]) -> None:
    """Kills a worker where `undone` is above zero, starts it again, and waits until `working` rises."""
    worker = house.workers[name]
    found = kill_when(worker.child, undone)
    killed_s, stood = time.monotonic(), working()
    worker.child.start()
    wait_until(lambda: working() > stood, f"{name} does not work again{worker.child.last_words()}")
    say(name, killed_s, f"; at the kill, {found} to be done again ({UNITS[name]})")
    worker.await_ready()


UNITS = {
    "rank": "requests answered, not committed",
    "ingest": "records stored, not committed",
    "train": "records of updates since its snapshot",
    "rewards": "decisions and outcomes not committed",
    "learn": "from its newest record on",
}


def kill_when(child: Child, undone: Callable[[], int]) -> int:
    rng = random.Random(0)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        os.kill(child.pid, signal.SIGSTOP)
        time.sleep(ARRIVAL_S)
        found = undone()
        if found > 0:
            child.kill()
            return found
        os.kill(child.pid, signal.SIGCONT)
        assert time.monotonic() < deadline, f"{child.name} was never found with anything undone"
        time.sleep(rng.uniform(0.005, 0.05))


def restart_ended(house: House) -> None:
    """As whoever runs containers does: a broker that was killed may shut out a member whose last join it forgot."""
    for name, worker in house.workers.items():
        if not worker.child.alive():
            print(f"{name} had ended and is started again")
            worker.child.start()
            worker.await_ready()


def say(name: str, killed_s: float, more: str = "") -> None:
    print(f"{name}: at work again {time.monotonic() - killed_s:.1f} s after the kill{more}")


def end(house: House, topic: str) -> int:
    return sum(high for _, high in scan.ends(house.kafka, topic).values())


def committed(house: House, group: str, topic: str) -> int:
    return sum(scan.committed(house.kafka, group, topic).values())


def stored(house: House) -> dict[tuple[str, int], int]:
    recipe = house.settings.recipe
    return Joiner(connect(house.stack.redis_url), recipe.log, recipe.join).offsets()


def read_again(house: House) -> int:
    """Records whose effects are in Redis, and whose offsets are not committed."""
    topics = (SERVED, IMPRESSIONS, CONVERSIONS)
    return sum(stored(house).values()) - sum(committed(house, ingest.GROUP, topic) for topic in topics)


def unread_by_rewards(house: House) -> int:
    return sum(end(house, topic) - committed(house, REWARDS_GROUP, topic) for topic in (DECISIONS, OUTCOMES))


def unsaved(house: House) -> int:
    """Records of updates that came after the newest snapshot."""
    newest = list_snapshots(house.settings.snapshots, house.settings.recipe.model.digest)[-1]
    return end(house, UPDATES) - newest.manifest.position.offset


def await_ok(house: House, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Returns once a request is scored again."""

    def scored() -> bool:
        meanwhile()
        request = RankingRequest(
            request_id=f"probe-{time.time_ns()}", user="probe", candidates=[Candidate(item="item-1")]
        )
        try:
            return client.rank(request, timeout_s=10.0, deadline_ms=5_000).status == "ok"
        except TimeoutError:
            return False  # it will be answered yet: the audit wants to see it

    with RankingClient(house.kafka) as client:
        said = "".join(worker.child.last_words() for worker in house.workers.values())
        wait_until(scored, f"no request is scored again{said}")


def wait_until(reached: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.1)


def settled_audit(house: House) -> AuditReport:
    """The audit once all is read and all windows are closed; whatever it is, if that does not come about."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        report = run_audit(house.settings)
        if not any(report.count(*line) for line in WAITING) or time.monotonic() > deadline:
            return report
        time.sleep(1.0)


def check(before: AuditReport, after: AuditReport, load: SimReport | None) -> None:
    """All that the load sent is accounted for."""
    print(after.text())
    assert load is not None
    assert (load.delivery_errors, load.unsent_events) == (0, 0)
    for section, name in (("requests", "answered_fallback"), ("requests", "answered_again"),
                          ("joins", "delivered_again"), ("rewards", "delivered_again"), ("joins", "late")):  # fmt: skip
        print(f"{section}, {name.replace('_', ' ')}: {after.count(section, name) - before.count(section, name)} more")
    assert after.ok, after.text()
    assert after.count("events", "distinct") - before.count("events", "distinct") == len(load.event_ids)
    assert after.count("requests", "sent") - before.count("requests", "sent") >= len(load.request_ids)
    assert after.count("requests", "answered") == after.count("requests", "sent")
    assert [after.count(*line) for line in WAITING] == [0] * len(WAITING), "something waits that nothing brings on"
