"""Real servers and workers in a folder that goes with them, and a simulated ad system in front of them."""

import os
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from streams.client import RankingClient
from streams.kafka.connection import Kafka
from streams.local.house import House, open_house
from streams.local.stack import BrokerChoice
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
_PHASES = "tiderank_processor_seconds"
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


@contextmanager
def house(
    recipe: str, workers: Sequence[str], *, broker: BrokerChoice = "auto", module: str = "streams.cli"
) -> Iterator[House]:
    """Opens a house of this recipe, as TOML. module: what runs a worker."""
    with tempfile.TemporaryDirectory(prefix="tiderank-benchmark-") as folder:
        path = Path(folder) / "recipe.toml"
        path.write_text(recipe)
        home = Path(folder) / "data"
        with open_house(home, recipe=str(path), workers=workers, broker=broker, module=module) as up:
            yield up


def cpu_s(up: House) -> float:
    """Seconds of processor that all of it has used, this process included; of those that live."""
    return sum(by_process(up).values()) + time.process_time()


def shares_of_a_core(up: House, seconds: float) -> dict[str, float]:
    """Percent of a core that each server and worker uses in the next seconds, by name."""
    before, began = by_process(up), time.monotonic()
    time.sleep(seconds)
    after, elapsed = by_process(up), time.monotonic() - began
    return {name: 100 * (after[name] - before[name]) / elapsed for name in before}


def pids_of(up: House) -> dict[str, int]:
    """Processes of a house, by name: its servers and its workers."""
    servers = {"broker": up.stack.broker.pid, "redis": up.stack.redis.pid}
    return servers | {name: worker.child.pid for name, worker in up.workers.items()}


def by_process(up: House) -> dict[str, float]:
    """Seconds of processor that each server and worker has used, by name."""
    return {name: cpu_of(pid) for name, pid in pids_of(up).items()}


def phases_of(worker: WorkerProcess) -> dict[str, float]:
    """Seconds of processor that a worker's own thread has used, by phase of its loop."""
    url = f"http://127.0.0.1:{worker.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=10) as page:
        families = text_string_to_metric_families(page.read().decode())
        return {s.labels["phase"]: s.value for f in families if f.name == _PHASES for s in f.samples}


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


def cpu_of(pid: int) -> float:
    """Seconds of processor that a process has used; 0 of one that is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND
