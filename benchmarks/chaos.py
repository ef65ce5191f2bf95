"""Is anything lost, doubled or different when parts are killed, halted and starved at random, all the time?

    python -m benchmarks.chaos [--faults 100] [--seed 0] [--rate 8]

A house of its own on the real Kafka, two ranking processes, and a simulated ad system at a steady rate. One fault after
another, from shuffled decks that hold each kind once: kill -9 of each worker at any moment and at named points
(benchmarks/lab/faulty.py); a worker halted for up to 9 s, longer than its group waits for it; the broker killed; Redis
killed with its append-only file on, and killed while its disk takes seconds to write (a fdatasync that sleeps, by
LD_PRELOAD: needs a C compiler, and is left out with a word where there is none). A worker that ends by itself is
started again, as whoever runs containers does, and counted.

Then, from outside: `tiderank audit`; the share of fallbacks among the requests of other times than outages of what
serving needs; and whether a replica that followed from the first fault to the last, a fresh one, and the published
image of the newest snapshot are equal bit for bit. Exit status 1 if anything is wrong.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.lab.faulty import FAULTS, POINTS, order
from benchmarks.lab.house import QUICK, House, Traffic, house, traffic
from benchmarks.lab.judging import PATIENCE_S, WAITING, fallbacks, images, new_engine, settled_audit, tell, tell_of_gate
from ranker.engine import Engine
from streams.client import RankingClient
from streams.health import healthy
from streams.load.report import this_machine
from streams.local.kafka import why_not
from streams.messages import Candidate, RankingRequest
from streams.replica import Replica
from streams.simulate.config import demo
from streams.update_writer import now_ms

WORKERS = ("rank-a", "rank-b", "ingest", "train", "rewards", "learn")
RECIPE = (
    QUICK.replace("[join]", "[join]\nclick_elapsed_ms = 500")
    + '[training]\nsnapshot_s = 5.0\n[training.learner]\nclicks = "es_dfm"\n'
)
"""With clicks that are late by half a second and correct what was said."""
POINT_S = 60.0
"""For a worker to reach the point where it is to die."""
LONGEST_HALT_S = 9.0
PROBED = 12
"""Users, enough for each partition to have one."""


class Wrong(Exception):
    """Something did not come right."""


@dataclass
class Chaos:
    house: House
    follower: Replica
    """Lives from before the first fault until after the last."""
    rng: random.Random
    faults: Path
    slow_disk: Path | None
    """While this file exists the disk is slow; None where that cannot be arranged."""
    outages: list[tuple[int, int]] = field(default_factory=list)
    """Of what serving needs; milliseconds since the epoch."""
    done: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    """Workers that ended by themselves."""
    not_reached: Counter[str] = field(default_factory=Counter)

    def kinds(self) -> dict[str, Callable[[], bool]]:
        """Each returns whether serving suffers."""
        kinds: dict[str, Callable[[], bool]] = {f"kill {name}": partial(self._kill, name) for name in WORKERS}
        kinds |= {f"halt {name}": partial(self._halt, name) for name in WORKERS}
        kinds |= {f"die {name} {point}": partial(self._die, name, point) for name in POINTS for point in POINTS[name]}
        kinds |= {"kill broker": self._kill_broker, "kill redis": self._kill_redis}
        if self.slow_disk is not None:
            kinds["slow redis"] = partial(self._kill_redis, slow=True)
        return kinds

    def run(self, faults: int, only: Sequence[str] = ()) -> None:
        deck: list[str] = []
        kinds = {name: fault for name, fault in self.kinds().items() if not only or any(o in name for o in only)}
        for number in range(1, faults + 1):
            if not deck:
                deck = self.rng.sample(sorted(kinds), len(kinds))
            kind = deck.pop()
            began, began_ms = time.monotonic(), now_ms()
            serving = kinds[kind]()
            self.await_answers()
            if serving:
                self.outages.append((began_ms, now_ms()))
            self.done[kind] += 1
            took_s = time.monotonic() - began
            print(f"{number:>4}  {began_ms}  {kind:<22} all right again after {took_s:.1f} s", flush=True)
            self.tend(self.rng.uniform(0.5, 3.0))

    def tend(self, seconds: float) -> None:
        """Time passes: the follower follows, and what has ended is started again."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.follower.apply_waiting()
            for name, worker in self.house.workers.items():
                if not worker.child.alive():
                    last = worker.child.last_words().strip().splitlines()[-1:]
                    print(f"      {name} had ended by itself and is started again: {' '.join(last)}", flush=True)
                    self.ended[name] += 1
                    self._bring_back(name)
            time.sleep(0.02)

    def _kill(self, name: str) -> bool:
        self.house.workers[name].child.kill()
        self._bring_back(name)
        return name.startswith("rank")

    def _die(self, worker: str, point: str) -> bool:
        name = next(n for n in WORKERS if n.partition("-")[0] == worker)
        child = self.house.workers[name].child
        told = order(self.faults, worker, point)
        if worker == "rank":
            name = self._first_to_die([n for n in WORKERS if n.startswith("rank")], told)
        else:
            self._until(lambda: not child.alive(), POINT_S)
        if told.exists():
            told.unlink()
            self.not_reached[f"{worker} {point}"] += 1
            return False
        self._bring_back(name)
        return worker == "rank"

    def _first_to_die(self, names: Sequence[str], told: Path) -> str:
        self._until(lambda: any(not self.house.workers[n].child.alive() for n in names), POINT_S)
        return next((n for n in names if not self.house.workers[n].child.alive()), names[0])

    def _halt(self, name: str) -> bool:
        child = self.house.workers[name].child
        os.kill(child.pid, signal.SIGSTOP)
        deadline = time.monotonic() + self.rng.uniform(1.0, LONGEST_HALT_S)
        while time.monotonic() < deadline:
            self.follower.apply_waiting()
            time.sleep(0.02)
        os.kill(child.pid, signal.SIGCONT)
        return name.startswith("rank")

    def _kill_broker(self) -> bool:
        self.house.stack.broker.kill()
        time.sleep(self.rng.uniform(0.2, 3.0))
        self.house.stack.broker.restart()
        return True

    def _kill_redis(self, slow: bool = False) -> bool:
        if slow and self.slow_disk is not None:
            self.slow_disk.touch()
            self.tend(self.rng.uniform(2.0, 6.0))  # the disk is behind, and what was said to be stored is in memory
        self.house.stack.redis.kill()
        time.sleep(self.rng.uniform(0.2, 2.0))
        if self.slow_disk is not None:
            self.slow_disk.unlink(missing_ok=True)
        self.house.stack.redis.restart()
        return True

    def _bring_back(self, name: str) -> None:
        """Starts it until it lives: what it needs may be away at first."""
        worker, deadline, started = self.house.workers[name], time.monotonic() + PATIENCE_S, 0.0
        # For a moment what answered for the dead one still does.
        while time.monotonic() < started + 1.0 or not (worker.child.alive() and healthy(worker.metrics_port)[0]):
            if not worker.child.alive():
                worker.child.start()
                started = time.monotonic()
            if time.monotonic() > deadline:
                raise Wrong(f"{name} does not come back{worker.child.last_words()}")
            self.follower.apply_waiting()
            time.sleep(0.05)

    def await_answers(self) -> None:
        """Returns once a request of every partition is scored."""
        waiting, deadline = {f"probe-{number}" for number in range(PROBED)}, time.monotonic() + PATIENCE_S
        with RankingClient(self.house.kafka) as client:
            while waiting:
                for user in sorted(waiting):
                    request_id = f"probe-{time.time_ns()}-{user}"
                    client.send(RankingRequest(request_id=request_id, user=user, candidates=[Candidate(item="item-1")]))
                until = time.monotonic() + 3.0
                while waiting and time.monotonic() < until:
                    self.tend(0.02)
                    for response, _ in client.poll(0.05):
                        if response.status == "ok":
                            waiting.discard(response.user)
                if time.monotonic() > deadline:
                    raise Wrong(f"requests of {sorted(waiting)} are not scored again")

    def _until(self, reached: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not reached() and time.monotonic() < deadline:
            self.follower.apply_waiting()
            time.sleep(0.02)


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


def run(faults: int, seed: int, rate: float, only: Sequence[str] = ()) -> bool:
    """Prints what happened; whether all was right."""
    world = replace(demo(), candidates_median=30, candidates_max=60, conversion_delay_s=1.0)
    with tempfile.TemporaryDirectory(prefix="tiderank-chaos-") as folder, slow_disk(Path(folder)) as slow:
        os.environ[FAULTS] = str(Path(folder) / "faults")
        with house(RECIPE, WORKERS, module="benchmarks.lab.faulty") as up:
            followed = new_engine(up)
            follower = Replica(followed, up.kafka, str(up.home / "snapshots"))
            chaos = Chaos(up, follower, random.Random(seed), Path(os.environ[FAULTS]), slow)
            began = time.monotonic()
            with traffic(up.kafka, rate, seed=seed, world=world, prefix="chaos", drain_s=PATIENCE_S) as asking:
                chaos.await_answers()
                chaos.tend(5.0)
                chaos.run(faults, only)
                chaos.tend(5.0)
            print(
                f"{faults} faults in {(time.monotonic() - began) / 60:.1f} minutes: {dict(sorted(chaos.done.items()))}"
            )
            print(f"points that were not reached: {dict(chaos.not_reached)}; ended by themselves: {dict(chaos.ended)}")
            return judge(up, chaos, follower, followed, asking)


def judge(up: House, chaos: Chaos, follower: Replica, followed: Engine, asking: Traffic) -> bool:
    report = settled_audit(up)
    print(report.text())
    tell(up, report)
    tell_of_gate(up)
    found = images(up, follower, followed)
    inside, outside, of = fallbacks(up, chaos.outages)
    print(f"fallbacks: {inside} in outages; {outside} of {of} requests of other times ({outside / max(of, 1):.2%})")
    for name, (version, fingerprinted) in found.items():
        print(f"{name:<16} {version:<24} {fingerprinted}")
    sent = asking.report
    wrong = [
        what
        for what, right in {
            "the audit": report.ok,
            "something waits that nothing brings on": not any(report.count(*line) for line in WAITING),
            "more than 1 % fallbacks": outside <= 0.01 * of,
            "images differ": len(set(found.values())) == 1,
            "the ad system did not get all out": sent is not None
            and (sent.delivery_errors, sent.unsent_events) == (0, 0)
            and report.count("events", "distinct") >= len(sent.event_ids),
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
    parser.add_argument("--only", default="", help="kinds of faults: parts of their names, comma")
    args = parser.parse_args()
    if why_not() is not None:
        sys.exit(f"needs a broker that survives a kill: {why_not()}")
    torch.set_num_threads(1)
    print(f"{this_machine()}; seed {args.seed}, {args.rate:g} requests/s", flush=True)
    sys.exit(0 if run(args.faults, args.seed, args.rate, [o for o in args.only.split(",") if o]) else 1)


if __name__ == "__main__":
    main()
