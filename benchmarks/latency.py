"""How long does an answer take, Kafka to Kafka, while the model learns?

    python -m benchmarks.latency [--tier light] [--candidates 100] [--rate 20] [--seconds 30] [--repeats 3]

Starts a real Kafka, a Redis and all workers, with one tier alone as the router's plan; a simulated ad system asks in an
open loop (a request's latency counts from when it was due to be sent), shows, clicks and buys, so that weight updates
flow all the while. Prints one row a repeat: percentiles seen by the client, from broker timestamp to broker timestamp,
and the phases that the worker reports. The median over the repeats is the figure to quote.
"""

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from streams.client import RankingClient
from streams.codec import decode
from streams.demo.house import House, open_house
from streams.messages import RankingResponse
from streams.scan import read_topic
from streams.simulate.config import demo
from streams.simulate.driver import Phase, simulate
from streams.simulate.world import World
from streams.topics import REQUESTS, RESPONSES, TOPICS

PHASES = ("decode", "fetch", "route", "score")


@dataclass(frozen=True, slots=True)
class Row:
    client_p50: float
    client_p99: float
    broker_p50: float
    broker_p99: float
    phases: dict[str, float]
    """Medians, ms."""
    fallbacks: int
    requests: int
    updates: int


@contextmanager
def one_tier_house(tier: str) -> Iterator[House]:
    recipe = f'base = "demo"\n[routing]\ntiers = ["{tier}"]\ncascades = []\n'
    with ExitStack() as closing:
        home = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="tiderank-latency-")))
        house = open_house(home, closing, broker="kafka", announce=print)
        house.set_recipe(recipe)
        house.start_workers()
        house.await_workers(print)
        yield house


def measure(house: House, args: argparse.Namespace, repeat: int) -> Row:
    config = replace(
        demo(),
        items=max(demo().items, 2 * args.candidates),
        flight_share=1.0,
        candidates_min=args.candidates,
        candidates_median=args.candidates,
        candidates_max=args.candidates,
        candidates_spread=0.0,
    )
    prefix = f"latency-{repeat}"
    with RankingClient(house.kafka) as client:
        world = World(config, seed=repeat, start_ms=time.time_ns() // 1_000_000)
        phases = [Phase(rate=args.rate, seconds=10, name="warm-up"), Phase(rate=args.rate, seconds=args.seconds)]
        report = simulate(client, world, phases, prefix=prefix, deadline_ms=10_000)
    measured = report.phases[-1]
    warm = report.phases[0].requests
    wanted = set(report.request_ids[warm:])
    asked = {_request_id(r.value): r.timestamp_ms for r in read_topic(house.kafka, REQUESTS)}
    answers: dict[str, tuple[RankingResponse, int]] = {}
    for record in read_topic(house.kafka, RESPONSES):
        response: RankingResponse = decode(TOPICS[RESPONSES], record.value)
        if response.request_id in wanted:
            answers.setdefault(response.request_id, (response, record.timestamp_ms))
    broker = [at - asked[name] for name, (_, at) in answers.items()]
    timings = [response.timings for response, _ in answers.values() if response.timings is not None]
    versions = {r.model.number for r, _ in answers.values() if r.model is not None}
    client_p50, client_p99 = np.percentile(measured.latency_ms, [50, 99]).tolist()
    broker_p50, broker_p99 = np.percentile(broker, [50, 99]).tolist()
    return Row(
        client_p50,
        client_p99,
        broker_p50,
        broker_p99,
        {phase: statistics.median(getattr(t, phase) for t in timings) for phase in PHASES},
        sum(r.status != "ok" for r, _ in answers.values()),
        len(wanted),
        max(versions) - min(versions),
    )


def _request_id(value: bytes | None) -> str:
    return str(msgspec.json.decode(value or b"{}").get("request_id"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tier", default="light")
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--rate", type=float, default=20.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with one_tier_house(args.tier) as house:
        rows = [measure(house, args, repeat) for repeat in range(args.repeats)]
    print(f"\n{cpu()}; Apache Kafka; tier {args.tier}, {args.candidates} candidates, {args.rate:g} requests/s")
    print("client p50   p99 | broker p50   p99 | " + "  ".join(f"{p:>6}" for p in PHASES) + " | updates fallbacks")
    for row in rows:
        phases = "  ".join(f"{row.phases[p]:6.2f}" for p in PHASES)
        print(
            f"{row.client_p50:10.1f} {row.client_p99:5.1f} | {row.broker_p50:10.1f} {row.broker_p99:5.1f} | {phases} | "
            f"{row.updates:7d} {row.fallbacks}/{row.requests}"
        )
    print(
        f"median over {len(rows)}: client p50 {statistics.median(r.client_p50 for r in rows):.1f} ms, "
        f"p99 {statistics.median(r.client_p99 for r in rows):.1f} ms"
    )


def cpu() -> str:
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return f"{names[0] if names else platform.processor()}, {len(names)} cores"


if __name__ == "__main__":
    main()
