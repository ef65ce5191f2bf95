"""The house that faults are inflicted on: what they do to it, and how it is seen to be all right again."""

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.faults.ad_system import AdSystem
from benchmarks.faults.archive import Archive
from benchmarks.lab.judging import PATIENCE_S
from streams.client import RankingClient
from streams.kafka.scan import committed, ends
from streams.local.house import House
from streams.runtime.health import healthy
from streams.wire.messages import Candidate, RankingRequest
from streams.workers.rank.replica import Replica

BACK_S = 600.0
"""Seconds for a worker to come back: on a busy machine importing torch alone takes a while."""
PROBED = 12
"""Users, enough for each partition to have one."""


class Wrong(Exception):
    """Something did not come right."""


@dataclass
class Target:
    house: House
    ad_system: AdSystem
    follower: Replica
    """Lives from before the first fault until after the last."""
    rng: random.Random
    archive: Archive
    orders: Path
    """The folder that tells workers where to die."""
    slow_disk: Path | None
    """While this file exists the disk is slow; None where that cannot be arranged."""
    ended: Counter[str] = field(default_factory=Counter)
    """Workers that ended by themselves."""
    not_reached: Counter[str] = field(default_factory=Counter)
    """Named points where a worker was to die, and did not come."""

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
                    self.bring_back(name)
            time.sleep(0.02)

    def wait(self, seconds: float) -> None:
        """As `tend`, but what has ended stays so."""
        self.until(lambda: False, seconds)

    def until(self, reached: Callable[[], bool], seconds: float) -> bool:
        """Waits for it; whether it was reached in time."""
        deadline = time.monotonic() + seconds
        while not reached():
            if time.monotonic() > deadline:
                return False
            self.follower.apply_waiting()
            time.sleep(0.02)
        return True

    def kill(self, name: str) -> None:
        self.house.workers[name].child.kill()

    def bring_back(self, name: str) -> None:
        """Starts it until it lives: what it needs may be away at first."""
        worker, deadline, started = self.house.workers[name], time.monotonic() + BACK_S, 0.0
        # For a moment what answered for the dead one still does.
        while time.monotonic() < started + 1.0 or not (worker.child.alive() and healthy(worker.metrics_port)[0]):
            if not worker.child.alive():
                worker.child.start()
                started = time.monotonic()
            if time.monotonic() > deadline:
                raise Wrong(f"{name} does not come back{worker.child.last_words()}")
            self.follower.apply_waiting()
            time.sleep(0.05)

    def await_answers(self, patience_s: float = PATIENCE_S) -> None:
        """Returns once a request of every partition is scored."""
        waiting, deadline = {f"probe-{number}" for number in range(PROBED)}, time.monotonic() + patience_s
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

    def await_read(self, group: str, topics: Sequence[str]) -> None:
        """Returns once the group has passed all that these topics hold now."""
        wanted = {topic: {p: high for p, (_, high) in ends(self.house.kafka, topic).items()} for topic in topics}
        deadline = time.monotonic() + PATIENCE_S
        for topic, places in wanted.items():
            while behind := {p for p, end in committed(self.house.kafka, group, topic).items() if end < places[p]}:
                if time.monotonic() > deadline:
                    raise Wrong(f"{group} does not read on in {topic} {sorted(behind)}")
                self.tend(0.2)
