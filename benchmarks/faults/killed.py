"""Parts that are killed, at any moment and at named points, and parts that stand still.

Each fault returns whether serving suffers.
"""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.faults.target import Target
from benchmarks.lab.faulty import order

WORKERS = ("rank-a", "rank-b", "ingest", "train", "rewards", "learn")
POINT_S = 60.0
"""Seconds for a worker to reach the point where it is to die."""
LONGEST_HALT_S = 9.0


def kill(target: Target, name: str) -> bool:
    target.kill(name)
    target.bring_back(name)
    return name.startswith("rank")


def halt(target: Target, name: str) -> bool:
    """Halts it for longer, at times, than its group waits for it."""
    child = target.house.workers[name].child
    os.kill(child.pid, signal.SIGSTOP)
    target.wait(target.rng.uniform(1.0, LONGEST_HALT_S))
    os.kill(child.pid, signal.SIGCONT)
    return name.startswith("rank")


def die(target: Target, worker: str, point: str) -> bool:
    name = next(n for n in WORKERS if n.partition("-")[0] == worker)
    child = target.house.workers[name].child
    told = order(target.orders, worker, point)
    if worker == "rank":
        name = _first_to_die(target, [n for n in WORKERS if n.startswith("rank")], told)
    else:
        target.until(lambda: not child.alive(), POINT_S)
    if told.exists():
        told.unlink()
        target.not_reached[f"{worker} {point}"] += 1
        return False
    target.bring_back(name)
    return worker == "rank"


def _first_to_die(target: Target, names: Sequence[str], told: Path) -> str:
    def dead() -> list[str]:
        return [n for n in names if not target.house.workers[n].child.alive()]

    target.until(lambda: bool(dead()), POINT_S)
    return next(iter(dead()), names[0])


def kill_broker(target: Target) -> bool:
    target.house.stack.broker.kill()
    time.sleep(target.rng.uniform(0.2, 3.0))
    target.house.stack.broker.restart()
    return True


def kill_redis(target: Target, *, slow: bool = False) -> bool:
    """slow: its disk is behind by then, and what it said to be stored is in memory alone."""
    if slow and target.slow_disk is not None:
        target.slow_disk.touch()
        target.tend(target.rng.uniform(2.0, 6.0))
    target.house.stack.redis.kill()
    time.sleep(target.rng.uniform(0.2, 2.0))
    if target.slow_disk is not None:
        target.slow_disk.unlink(missing_ok=True)
    target.house.stack.redis.restart()
    return True


def kill_all_that_store(target: Target) -> bool:
    """Redis, ingest and the broker at once: neither of the two stores can be asked what the other has forgotten."""
    stack = target.house.stack
    stack.redis.kill()
    target.kill("ingest")
    stack.broker.kill()
    time.sleep(target.rng.uniform(0.2, 3.0))
    for server in target.rng.sample([stack.redis, stack.broker], 2):
        server.restart()
    target.bring_back("ingest")
    return True
