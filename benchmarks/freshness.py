"""How long does a click take until every replica serves what it taught, and where does the time go?

    python -m benchmarks.freshness [--rates 20,30,40,50] [--replicas 1,2,4] [--rows 20000,1000000] [--tiers light]

A house of its own (Apache Kafka where it can run) on the demo's recipe, for each number of ranking processes and each
size of the tables; in it one rate after another, while more than a fifth of the processors is left. A row: requests
and events a second; the share of the machine that all of it used, the simulated ad system included; updates a second;
of clicks p50 and p99, from the broker's timestamp to that of the first response of the slowest replica with weights
that had learned from it, and of each stage on the way. A click whose impression comes later waits for it; so that what
is measured is this system, no event is sent late unless --reordered says so.
"""

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.lab.house import cpu_s, house, traffic
from streams.freshness.feed import FOLLOWED, feed
from streams.freshness.meter import STAGES, Fresh, FreshnessMeter, quantiles
from streams.kafka import scan
from streams.kafka.tail import Tail
from streams.local.house import House
from streams.machine import this_machine
from streams.simulate.config import WORLDS, WorldConfig
from streams.wire.topics import CONVERSIONS, IMPRESSIONS, UPDATES

WORKERS = ("ingest", "train", "rewards", "learn")
LEFT = 0.2
"""Share of the processors; where less is left, higher rates are not tried."""


@dataclass(frozen=True)
class Measured:
    clicks: list[Fresh]
    events: float
    """A second."""
    updates: float
    """A second."""
    busy: float
    """Share of all processors."""


def measure(up: House, seconds: float) -> Measured:
    meter, tail, settled = FreshnessMeter(), Tail(up.kafka, FOLLOWED), list[Fresh]()
    try:
        before, began = _counts(up), time.monotonic()
        while time.monotonic() - began < seconds:
            for record in tail.poll(timeout_s=0.2):
                feed(meter, record)
            settled += meter.settle()
        after, took = _counts(up), time.monotonic() - began
    finally:
        tail.close()
    events, updates, cpu_s = ((b - a) / took for a, b in zip(before, after, strict=True))
    return Measured([f for f in settled if f.cause == "click"], events, updates, cpu_s / (os.cpu_count() or 1))


def _counts(up: House) -> tuple[float, float, float]:
    def end(topic: str) -> int:
        return sum(high for _, high in scan.ends(up.kafka, topic).values())

    return end(IMPRESSIONS) + end(CONVERSIONS), end(UPDATES), cpu_s(up)


def recipe(rows: int, tiers: Sequence[str], step_s: float) -> str:
    cascades = 'cascades = [{first = "light", then = "heavy", keep = 20}]' if len(tiers) > 1 else "cascades = []"
    return f"""
base = "demo"
[model]
tables = [{{name = "items", rows = {rows}}}, {{name = "shared", rows = {rows}}}]
[routing]
tiers = {list(tiers)}
{cascades}
[training]
step_s = {step_s}
"""


def world(args: argparse.Namespace) -> WorldConfig:
    return replace(
        WORLDS["demo"](),
        shown=args.shown,
        candidates_median=args.candidates,
        candidates_spread=0.0,
        candidates_min=1,
        reorder_share=args.reordered,
    )


def row(replicas: int, rows: int, rate: float, found: Measured) -> str:
    stages = [[getattr(f, f"{stage}_ms") for f in found.clicks] for stage in STAGES]
    cells = [quantiles(ms) or {"p50": 0, "p99": 0} for ms in ([f.total_ms for f in found.clicks], *stages)]
    return (
        f"{replicas:>8}{rows:>10}{rate:>7.0f}{found.events:>8.0f}{found.busy:>7.0%}{found.updates:>9.1f}"
        f"{len(found.clicks):>8}  " + "".join(f"{cell['p50']:>6.0f} {cell['p99']:>5.0f}" for cell in cells)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", default="20,30,40,50,60", help="requests a second")
    parser.add_argument("--replicas", default="1,2,4")
    parser.add_argument("--rows", default="20000", help="of each of the two tables")
    parser.add_argument("--tiers", default="light", help="light, or light,heavy (and the cascade of both)")
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--shown", type=int, default=4, help="impressions of a request")
    parser.add_argument("--reordered", type=float, default=0.0, help="share of events sent up to 2 s late")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--warm-up", type=float, default=30)
    parser.add_argument("--step-s", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    tiers = args.tiers.split(",")
    print(f"{this_machine()}; tiers {args.tiers}, {args.candidates} candidates, {args.shown} shown")
    print(f"{'replicas':>8}{'rows':>10}{'req/s':>7}{'ev/s':>8}{'busy':>7}{'upd/s':>9}{'clicks':>8}  "
          + "".join(f"{name + ' p50 99':>12}" for name in ("ms", *STAGES)))  # fmt: skip
    for replicas in map(int, args.replicas.split(",")):
        for rows in map(int, args.rows.split(",")):
            ranks = [f"rank-{number}" for number in range(replicas)]
            rates = [float(rate) for rate in args.rates.split(",")]
            with (
                house(recipe(rows, tiers, args.step_s), [*ranks, *WORKERS]) as up,
                traffic(up.kafka, rates[0], seed=args.seed, world=world(args)) as asking,
            ):
                time.sleep(args.warm_up)
                for rate in rates:
                    asking.commands.put(f"rate {rate}")
                    time.sleep(5)
                    found = measure(up, args.seconds)
                    print(row(replicas, rows, rate, found), flush=True)
                    if found.busy > 1 - LEFT:
                        break


if __name__ == "__main__":
    main()
