"""A running house for the end-to-end tests: a local stack with real workers."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.lab.house import QUICK
from streams.client import RankingClient
from streams.config.load import load_recipe
from streams.config.settings import Settings
from streams.kafka.connection import Kafka
from streams.local.kafka import why_not
from streams.local.stack import BrokerChoice, LocalStack, local_stack
from streams.local.workers import WorkerProcess
from streams.wire.messages import Candidate, RankingRequest

RECIPE = QUICK + "[training]\nsnapshot_s = 5.0\n"


class House:
    """Servers and workers, with what a test does to them."""

    def __init__(self, stack: LocalStack, home: Path, recipe: Path) -> None:
        self.stack = stack
        self.home = home
        self.kafka = Kafka(stack.bootstrap, {})
        self.settings = Settings(
            bootstrap=stack.bootstrap,
            redis_url=stack.redis_url,
            recipe=load_recipe(str(recipe)),
            snapshots=str(home / "snapshots"),
            instance="test",
        )
        self.workers: dict[str, WorkerProcess] = {}
        self._recipe = recipe

    def add(self, name: str, instance: str = "local") -> WorkerProcess:
        """Adds a worker, not started yet."""
        worker = self.workers[name if instance == "local" else f"{name}-{instance}"] = WorkerProcess(
            name,
            home=self.home,
            bootstrap=self.stack.bootstrap,
            redis_url=self.stack.redis_url,
            recipe=str(self._recipe),
            instance=instance,
        )
        return worker

    def start(self, *names: str, instance: str = "local") -> None:
        """Starts the workers and waits until their loops beat."""
        started = [self.add(name, instance) for name in names]
        for worker in started:
            worker.child.start()
        for worker in started:
            worker.await_ready()

    def await_model(self, timeout_s: float = 60.0) -> None:
        """Returns once a request is scored."""
        deadline = time.monotonic() + timeout_s
        with RankingClient(self.kafka) as client:
            number = 0
            while time.monotonic() < deadline:
                number += 1
                request = RankingRequest(
                    request_id=f"first-{time.time_ns()}-{number}", user="first", candidates=[Candidate(item="first")]
                )
                if client.rank(request, timeout_s=30.0, deadline_ms=30_000).status == "ok":
                    return
                time.sleep(0.1)
        raise TimeoutError(f"no request was scored in {timeout_s} s")

    def stop(self) -> None:
        for worker in self.workers.values():
            worker.child.stop()

    def check(self) -> None:
        for name, worker in self.workers.items():
            assert worker.child.alive(), f"{name} ended{worker.child.last_words()}"


@contextmanager
def running(
    home: Path, workers: Sequence[str], *, broker: BrokerChoice | None = None, recipe: str = RECIPE
) -> Iterator[House]:
    """broker: by default a real Kafka where it can run, else the in-memory one, and that is said."""
    obstacle = why_not()
    choice: BrokerChoice = broker or ("memory" if obstacle else "kafka")
    if broker is None and obstacle:
        print(f"on the in-memory broker: {obstacle}")
    path = home / "recipe.toml"
    path.write_text(recipe)
    with ExitStack() as closing:
        stack = closing.enter_context(local_stack(home / "data", broker=choice))
        house = House(stack, home / "data", path)
        closing.callback(house.stop)
        house.kafka.create_topics()
        house.start(*workers)
        if {"rank", "train"} <= set(workers):
            house.await_model()
        yield house
