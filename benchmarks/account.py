"""Where does the processor go in a running house: by process, by phase, by thread; and what do the topics carry?

    python -m benchmarks.account [--recipe tiers] [--tier medium] [--rate 10] [--candidates 100] [--log-length 512]

Starts a house on the real Kafka, fills the users' logs, warms up, and sends requests at that rate, with the events that
follow. All figures are of one ranked request: milliseconds of processor time, records, bytes. Phases are of a worker's
own thread, as `tiderank_processor_seconds_total` counts them; what its other threads use, Kafka's client above all,
stands by thread. A thread "waits" while it could run and no core is free; it "stops" where it waits for another one:
for the interpreter, a queue or its mutex, an answer.
"""

import argparse
import json
import re
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from benchmarks.lab.house import phases_of, pids_of
from streams.kafka.scan import ends
from streams.load.command import one_tier_recipe
from streams.load.measure import LoadOptions, Row
from streams.load.run import prepared_load
from streams.local.house import WORKERS, House, private_house
from streams.machine import this_machine
from streams.runtime.laps import PUBLISH_EVERY_S
from streams.wire.topics import TOPICS

_NAMES = 24
"""Width of a name in print."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Counters of a house at one moment; each only rises."""

    processors: dict[str, float]
    """Seconds of processor time, by process."""
    phases: dict[str, float]
    """The same of workers' own threads, by "worker: phase"."""
    threads: dict[str, float]
    """The same of a ranking worker, by the thread's name."""
    waits: dict[str, float]
    """Seconds that those could run and had no core."""
    stops: dict[str, float]
    """How often those stopped of themselves."""
    records: dict[str, float]
    bytes: dict[str, float]
    """Records and bytes on disk, by topic."""


def read(house: House) -> Reading:
    used = {name: _threads(pid) for name, pid in pids_of(house).items()}
    rank = used["rank"]
    return Reading(
        processors={name: sum(thread.ran for thread in of.values()) for name, of in used.items()},
        phases={f"{n}: {phase}": s for n, w in house.workers.items() for phase, s in phases_of(w).items()},
        threads={name: thread.ran for name, thread in rank.items()},
        waits={name: thread.waited for name, thread in rank.items()},
        stops={name: thread.stops for name, thread in rank.items()},
        records={t: float(sum(end for _, end in ends(house.kafka, t).values())) for t in TOPICS},
        bytes={topic: float(_bytes(house.home, topic)) for topic in TOPICS},
    )


class _Threads(NamedTuple):
    """Counters of the threads that share a name."""

    ran: float = 0.0
    waited: float = 0.0
    stops: float = 0.0


def _threads(pid: int) -> dict[str, _Threads]:
    """Seconds that the threads of a process ran, and waited for a core, and how often they stopped, by their name."""
    found: defaultdict[str, _Threads] = defaultdict(_Threads)
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            name = (task / "comm").read_text().strip()
            ran, waited, _ = map(int, (task / "schedstat").read_text().split())
            stops = int(re.search(r"\nvoluntary_ctxt_switches:\s+(\d+)", (task / "status").read_text())[1])  # type: ignore[index]
        except OSError:  # it has ended
            continue
        before = found[name]
        found[name] = _Threads(before.ran + ran / 1e9, before.waited + waited / 1e9, before.stops + stops)
    return found


def _bytes(home: Path, topic: str) -> int:
    partitions = (f"{topic}-{p}" for p in range(TOPICS[topic].partitions))
    return sum(file.stat().st_size for p in partitions for file in (home / "kafka" / "log" / p).glob("*.log"))


def measure(args: argparse.Namespace) -> tuple[Row, dict[str, dict[str, float]]]:
    """A row of load, and what each ranked request took: milliseconds, records, bytes."""
    options = LoadOptions(seconds=args.seconds, candidates=args.candidates)
    with (
        tempfile.TemporaryDirectory(prefix="tiderank-recipe-") as folder,
        private_house("account", _recipe(args, Path(folder)), WORKERS, broker="kafka", announce=_quiet) as house,
    ):
        warm_up = (args.rate, args.warm_up)
        with prepared_load(house.settings, options, log_length=args.log_length, warm_up=warm_up, say=_quiet) as load:
            before = read(house)
            row = load.measure(args.rate)
            after = read(house)
    scale = {"records": 1.0, "bytes": 1.0, "stops": 1.0}
    return row, {
        kind: {
            name: scale.get(kind, 1000.0) * (value - getattr(before, kind).get(name, 0.0)) / row.sent
            for name, value in getattr(after, kind).items()
        }
        for kind in Reading.__slots__
    }


def _recipe(args: argparse.Namespace, folder: Path) -> str:
    return one_tier_recipe(args.recipe, args.tier, folder) if args.tier else str(args.recipe)


def _quiet(line: str) -> None:
    """Says nothing."""


def show(found: dict[str, dict[str, float]]) -> None:
    for title, kind, unit in (
        ("processor time by process", "processors", "ms"),
        ("by phase of the worker's own thread", "phases", "ms"),
        ("by thread of the ranking worker", "threads", "ms"),
        ("threads of it that wait for a core", "waits", "ms"),
        ("how often threads of it stop", "stops", ""),
        ("records, by topic", "records", ""),
        ("bytes on disk, by topic", "bytes", ""),
    ):
        print(f"\na ranked request: {title}")
        for name, value in sorted(found[kind].items(), key=lambda item: -item[1]):
            if value >= 0.005:
                print(f"{name:<{_NAMES}}{value:9.2f} {unit}")
        print(f"{'in all':<{_NAMES}}{sum(found[kind].values()):9.2f} {unit}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="tiers", help="a built-in one")
    parser.add_argument("--tier", help="the router's only one")
    parser.add_argument("--rate", type=float, default=10.0, help="requests a second")
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--log-length", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--warm-up", type=float, default=15.0, help="seconds at that rate before")
    parser.add_argument("--json", action="store_true", help="print one object last")
    args = parser.parse_args()
    if args.seconds <= PUBLISH_EVERY_S:
        parser.error(
            f"--seconds must be above {PUBLISH_EVERY_S:g}: so long workers keep their counts; got {args.seconds:g}"
        )
    machine = this_machine()
    row, found = measure(args)
    p50, p99 = (row.latency.percentile(percent) or 0.0 for percent in (50, 99))
    print(f"{machine}; {args.rate:g} requests/s of {args.candidates}, logs of {args.log_length}; {row.sent} sent")
    print(f"latency p50 {p50:.1f}, p99 {p99:.1f} ms; tiers {dict(row.tiers)}")
    show(found)
    if args.json:
        kept = {kind: {name: round(v, 3) for name, v in of.items() if v >= 0.0005} for kind, of in found.items()}
        print(json.dumps({"sent": row.sent, "p50_ms": round(p50, 1), "p99_ms": round(p99, 1)} | kept))


if __name__ == "__main__":
    main()
