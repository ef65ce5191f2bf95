"""`tiderank simulate`."""

import json
import signal
import sys
import threading
import time
from typing import Any

import click

from streams.client import RankingClient
from streams.config.settings import BOOTSTRAP, required
from streams.kafka.connection import Kafka
from streams.options import SEED
from streams.simulate.config import WORLDS
from streams.simulate.driver import Commands, Phase, simulate
from streams.simulate.world import World


@click.command("simulate")
@click.option("--world", type=click.Choice(sorted(WORLDS)), default="demo", show_default=True)
@click.option(
    "--seed", type=SEED, default=0, show_default=True, help="Seed of the world: who likes what, who comes when."
)
@click.option("--rate", type=click.FloatRange(0, 100_000, min_open=True), default=20.0, show_default=True)
@click.option("--seconds", type=float, help="Length of the measured part; without it and --requests, until `stop`.")
@click.option("--requests", type=int, help="Requests of the measured part.")
@click.option("--warm-up-requests", type=int, default=0, show_default=True, help="Sent before the measured part.")
@click.option("--warm-up-rate", type=click.FloatRange(0, 100_000, min_open=True), default=100.0, show_default=True)
@click.option("--deadline-ms", type=int, help="Deadline of every request.")
@click.option("--drain", type=float, default=10.0, show_default=True, help="Seconds to wait for what is under way.")
@click.option(
    "--commands", "read_commands", is_flag=True, help="Obey lines of standard input: rate N, poison SHARE, next, stop."
)
@click.option("--progress", type=click.Choice(["text", "json", "none"]), default="text", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object last.")
def simulate_command(
    world: str,
    seed: int,
    rate: float,
    seconds: float | None,
    requests: int | None,
    warm_up_requests: int,
    warm_up_rate: float,
    deadline_ms: int | None,
    drain: float,
    read_commands: bool,
    progress: str,
    as_json: bool,
) -> None:
    """Be an ad system whose truth is known: ask, show, click and buy, and report what was seen."""
    phases = [Phase(rate=rate, requests=requests, seconds=seconds, name="measured")]
    if warm_up_requests:
        phases.insert(0, Phase(rate=warm_up_rate, requests=warm_up_requests, name="warm-up"))
    kafka = Kafka.from_environment(required(BOOTSTRAP, "the broker's host:port"))
    kafka.check()
    start_ms = time.time_ns() // 1_000_000
    commands = Commands()
    _stop_on_signal(commands)
    if read_commands:
        _obey_stdin(commands)
    with RankingClient(kafka) as client:
        report = simulate(
            client,
            World(WORLDS[world](), seed=seed, start_ms=start_ms),
            phases,
            prefix=f"sim{seed}-{start_ms:x}",
            deadline_ms=deadline_ms,
            commands=commands,
            progress=_PROGRESS[progress],
            drain_s=drain,
        )
    summary = report.summary()
    click.echo(json.dumps(summary) if as_json else _text(summary))


def _stop_on_signal(commands: Commands) -> None:
    """The first signal ends the run, with its report; a second one ends the process."""

    def stop(number: int, _: object) -> None:
        commands.put("stop")
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def _obey_stdin(commands: Commands) -> None:
    def read() -> None:
        for line in sys.stdin:
            if line.strip():
                commands.put(line)
        commands.put("stop")  # whoever steered is gone

    threading.Thread(target=read, daemon=True, name="commands").start()


def _say(now: dict[str, Any]) -> None:
    latency = now["latency_ms"] or {"p50": float("nan"), "p99": float("nan")}
    click.echo(
        f"{now['elapsed_s']:6.1f} s  {now['phase']:9} {now['rate']:6.1f}/s  answered {now['responses']}"
        f"/{now['requests']}  p50 {latency['p50']:.1f} p99 {latency['p99']:.1f} ms  "
        f"clicks {now['events'].get('click', 0)}/{now['events'].get('impression', 0)}",
        err=True,
    )


_PROGRESS = {"text": _say, "json": lambda now: click.echo(json.dumps(now)), "none": None}


def _text(summary: dict[str, Any]) -> str:
    rows = [*summary.pop("measured").items(), *((k, v) for k, v in summary.items() if k != "before")]
    return "\n".join(f"{name.replace('_', ' '):38} {value}" for name, value in rows)
