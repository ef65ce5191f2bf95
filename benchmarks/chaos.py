"""Is anything lost, doubled or different when parts are killed, halted, starved and misused at random, all the time?

    python -m benchmarks.chaos [--faults 100] [--seed 0] [--rate 8] [--kinds a,b]

A house of its own on the real Kafka, two ranking processes, and a simulated ad system at a steady rate. One fault after
another, from shuffled decks that hold each kind once (benchmarks/faults/schedule.py):
    kill -9 of each worker at any moment and at named points (benchmarks/lab/faulty.py); a worker halted for up to 9 s,
    longer than its group waits for it; the broker killed; Redis killed with its append-only file on, and killed while
    its disk takes seconds to write (a fdatasync that sleeps, by LD_PRELOAD: needs a C compiler, and is left out with a
    word where there is none); Redis, ingest and the broker killed at once;
    Redis emptied, or restored from an older file, with a restart of ingest; its writes refused for a while;
    a stranger's transaction among requests and events: left open for a while, or aborted;
    a group's offsets moved, or deleted, while its worker is down; records that retention deletes before a worker has
    read them; a topic deleted and made again.
A worker that ends by itself is started again, as whoever runs containers does, and counted.

Then, from outside: `tiderank audit`; the share of fallbacks among the requests of other times than outages of what
serving needs; and whether a replica that followed from the first fault to the last, a fresh one, and the published
image of the newest snapshot are equal bit for bit. What the broker deleted was kept aside
(benchmarks/faults/archive.py), and the audit is told of it; what nobody had read of it is truly lost, and counted. Exit
status 1 if anything is wrong.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.faults.ad_system import AdSystem
from benchmarks.faults.archive import Archive
from benchmarks.faults.killed import WORKERS
from benchmarks.faults.schedule import Fault, drawn, faults
from benchmarks.faults.target import Target
from benchmarks.lab.faulty import FAULTS
from benchmarks.lab.house import QUICK, house
from benchmarks.lab.judging import WAITING, fallbacks, images, new_engine, settled_audit, tell, tell_of_gate
from ranker.engine import Engine
from streams.local.kafka import why_not
from streams.machine import this_machine
from streams.simulate.config import demo
from streams.wire.topics import REQUESTS
from streams.workers.rank.replica import Replica
from streams.workers.train.update_writer import now_ms

RECIPE = (
    QUICK.replace("[join]", "[join]\nclick_elapsed_ms = 500")
    + '[training]\nsnapshot_s = 5.0\n[training.learner]\nclicks = "es_dfm"\n'
)
"""With clicks that are late by half a second and correct what was said."""
Outages = list[tuple[int, int]]
"""Outages (begin, end) of what serving needs; milliseconds since the epoch."""


def inflict(target: Target, chosen: Sequence[Fault]) -> Outages:
    """Inflicts the faults one after another, each once the one before is over."""
    outages, done = [], Counter[str]()
    for number, fault in enumerate(chosen, 1):
        began, began_ms = time.monotonic(), now_ms()
        serving = fault.inflict(target)
        target.await_answers()
        if serving:
            outages.append((began_ms, now_ms()))
        done[fault.name] += 1
        took_s = time.monotonic() - began
        print(f"{number:>4}  {began_ms}  {fault.name:<32} all right again after {took_s:.1f} s", flush=True)
        target.tend(target.rng.uniform(0.5, 3.0))
    print(f"faults: {dict(sorted(done.items()))}")
    print(f"points that were not reached: {dict(target.not_reached)}; ended by themselves: {dict(target.ended)}")
    return outages


@contextmanager
def slow_disk(folder: Path) -> Iterator[Path | None]:
    """Servers that are started in this block have a disk that is slow while the file exists."""
    compiler = shutil.which("cc")
    if compiler is None:
        print("no C compiler (cc): the slow disk is left out")
        yield None
        return
    library, flag = folder / "slow_disk.so", folder / "slow"
    source = Path(__file__).parent / "lab" / "slow_disk.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    os.environ["LD_PRELOAD"], os.environ["SLOW_DISK"] = str(library), str(flag)
    try:
        yield flag
    finally:
        del os.environ["LD_PRELOAD"], os.environ["SLOW_DISK"]


def run(number: int | None, seed: int, rate: float, kinds: Sequence[str] = ()) -> bool:
    """Prints what happened; returns whether all was right.

    Args:
        number: how many faults; None: one of each family.
        kinds: parts of the names of those to draw from; none: all.
    """
    world = replace(demo(), candidates_median=30, candidates_max=60, conversion_delay_s=1.0)
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="tiderank-chaos-") as folder, slow_disk(Path(folder)) as slow:
        known = [f for f in faults(slow_disk=slow is not None) if not kinds or any(kind in f.name for kind in kinds)]
        if not known:
            raise ValueError(f"no fault has any of {kinds} in its name: {[f.name for f in faults(slow_disk=True)]}")
        os.environ[FAULTS] = str(Path(folder) / "faults")
        with house(RECIPE, WORKERS, module="benchmarks.lab.faulty") as up:
            followed = new_engine(up)
            follower = Replica(followed, up.kafka, str(up.home / "snapshots"))
            archive = Archive(up.kafka)
            ad_system = AdSystem(up.kafka, rate, seed=seed, world=world)
            target = Target(up, ad_system, follower, rng, archive, Path(os.environ[FAULTS]), slow)
            began = time.monotonic()
            ad_system.start()
            target.await_answers()
            target.tend(5.0)
            outages = inflict(target, drawn(known, number, rng))
            target.tend(5.0)
            ad_system.stop()
            print(f"{(time.monotonic() - began) / 60:.1f} minutes")
            with archive.told_to_the_audit():
                return judge(target, outages, followed)


def judge(target: Target, outages: Outages, followed: Engine) -> bool:
    up = target.house
    report = settled_audit(up)
    print(report.text())
    tell(up, report)
    tell_of_gate(up)
    found = images(up, target.follower, followed)
    inside, outside, of = fallbacks(up, outages, target.archive.of(REQUESTS))
    print(f"fallbacks: {inside} in outages; {outside} of {of} requests of other times ({outside / max(of, 1):.2%})")
    for name, (version, fingerprinted) in found.items():
        print(f"{name:<16} {version:<24} {fingerprinted}")
    unread, untold = target.archive.unread, target.archive.untold(up.home / "logs")
    print(f"deleted before they were read: {dict(Counter(record.topic for record in unread))}", *untold[:10], sep="\n")
    sent = target.ad_system.sent_events()
    wrong = [
        what
        for what, right in {
            "the audit": report.ok,
            "what was missed": not untold,
            "the broker has let go of more than was deleted": not report.let_go,
            "something waits that nothing brings on": not any(report.count(*line) for line in WAITING),
            "more than 1 % fallbacks": outside <= 0.01 * of,
            "images differ": len(set(found.values())) == 1,
            "the ad system did not get all out": sent is not None
            and report.count("events", "distinct") + len(target.archive.lost) >= sent,
        }.items()
        if not right
    ]
    print("all right" if not wrong else f"WRONG: {'; '.join(wrong)}")
    return not wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=8.0, help="requests a second")
    parser.add_argument("--kinds", default="", help="kinds of faults: parts of their names, comma")
    args = parser.parse_args()
    if why_not() is not None:
        sys.exit(f"needs a broker that survives a kill: {why_not()}")
    torch.set_num_threads(1)
    print(f"{this_machine()}; seed {args.seed}, {args.rate:g} requests/s", flush=True)
    sys.exit(0 if run(args.faults, args.seed, args.rate, [k for k in args.kinds.split(",") if k]) else 1)


if __name__ == "__main__":
    main()
