"""Real servers and workers in a folder that goes with them, and a simulated ad system in front of them."""

import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from streams.client import RankingClient
from streams.config.load import load_recipe
from streams.config.recipe import Recipe
from streams.config.settings import Settings
from streams.kafka.connection import Kafka
from streams.local.stack import LocalStack, local_stack
from streams.local.workers import WorkerProcess
from streams.simulate.config import WORLDS, WorldConfig
from streams.simulate.driver import Commands, Phase, simulate
from streams.simulate.report import SimReport
from streams.simulate.world import World

QUICK = """
base = "demo"
[join]
click_window_ms = 1500
attribution_window_ms = 4000
early_ms = 4000
[routing]
reward_window_ms = 3000
"""
"""A recipe whose windows are over within seconds."""
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


class House:
    """Workers by name: "rank", or "rank-two" where it is one of several."""

    def __init__(self, stack: LocalStack, home: Path, recipe_path: Path, module: str) -> None:
        self.stack = stack
        self.home = home
        self.kafka = Kafka(stack.bootstrap, {})
        self.recipe: Recipe = load_recipe(str(recipe_path))
        self.workers: dict[str, WorkerProcess] = {}
        self._recipe_path = recipe_path
        self._module = module

    @property
    def settings(self) -> Settings:
        return Settings(
            bootstrap=self.stack.bootstrap,
            redis_url=self.stack.redis_url,
            recipe=self.recipe,
            snapshots=str(self.home / "snapshots"),
            instance="benchmark",
        )

    def add(self, name: str) -> WorkerProcess:
        """Adds a worker, not started yet."""
        worker, _, instance = name.partition("-")
        made = self.workers[name] = WorkerProcess(
            worker,
            home=self.home,
            bootstrap=self.stack.bootstrap,
            redis_url=self.stack.redis_url,
            recipe=str(self._recipe_path),
            instance=instance or "one",
        )
        made.child.command[:] = [sys.executable, "-m", self._module, worker]
        return made

    def start(self, names: Sequence[str]) -> None:
        """All at once; returns when their loops beat."""
        for name in names:
            self.add(name).child.start()
        for name in names:
            self.workers[name].await_ready()

    def cpu_s(self) -> float:
        """Seconds of processor that all of it has used, this process included; of those that live."""
        servers = (self.stack.broker.pid, self.stack.redis.pid)
        return sum(map(_cpu_s, (*servers, *(w.child.pid for w in self.workers.values())))) + time.process_time()

    def stop(self) -> None:
        for worker in self.workers.values():
            worker.child.ask_to_stop()
        for worker in self.workers.values():
            worker.child.stop()


@contextmanager
def house(recipe: str, workers: Sequence[str], module: str = "streams.cli") -> Iterator[House]:
    """recipe: as TOML. module: what runs a worker. Apache Kafka, where it can run."""
    with ExitStack() as closing:
        home = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="tiderank-benchmark-")))
        path = home / "recipe.toml"
        path.write_text(recipe)
        stack = closing.enter_context(local_stack(home / "data", broker="auto"))
        up = House(stack, home / "data", path, module)
        closing.callback(up.stop)
        up.kafka.create_topics()
        up.start(workers)
        yield up


@dataclass
class Traffic:
    """Steered by `commands`; `report` is there when the block has ended."""

    commands: Commands = field(default_factory=Commands)
    report: SimReport | None = None


@contextmanager
def traffic(
    kafka: Kafka,
    rate: float,
    *,
    seed: int,
    prefix: str | None = None,
    world: WorldConfig | None = None,
    drain_s: float = 0,
) -> Iterator[Traffic]:
    """Sends until the block ends. prefix: of the requests' ids, which no other traffic in the same house may use;
    without one they are this seed's own."""
    running = Traffic()

    def drive() -> None:
        with RankingClient(kafka) as client:
            simulated = World(world or WORLDS["demo"](), seed=seed, start_ms=time.time_ns() // 1_000_000)
            running.report = simulate(
                client,
                simulated,
                [Phase(rate=rate)],
                prefix=prefix or f"benchmark-{seed}",
                commands=running.commands,
                drain_s=drain_s,
            )

    thread = threading.Thread(target=drive, daemon=True)
    thread.start()
    try:
        yield running
    finally:
        running.commands.put("stop")
        thread.join(drain_s + 30)


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND
