"""A house on this machine: servers, topics, and workers on them, all ended when the block is left.

with open_house(Path(".data"), recipe="demo", workers=WORKERS) as house:
    use(house.settings)
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from streams.config.settings import Settings, named_recipe
from streams.kafka.connection import Kafka
from streams.local.stack import BrokerChoice, LocalStack, local_stack
from streams.local.workers import INSTANCE, WorkerProcess

WORKERS = ("rank", "ingest", "train", "rewards", "learn")
"""One of each, which is all that a system needs."""


class Fallen(NamedTuple):
    name: str
    end: str
    """How it ended, for people."""
    last_words: str
    """The end of its log, set for the end of an error message."""


class House:
    """Servers, and workers by name: "rank", or "rank-two" where it is one of several."""

    def __init__(self, stack: LocalStack, home: Path, *, recipe: str | None, module: str = "streams.cli") -> None:
        """See open_house."""
        self.stack = stack
        self.home = home
        self.kafka = Kafka(stack.bootstrap, {}) if stack.broker.ours else Kafka.from_environment(stack.bootstrap)
        self.workers: dict[str, WorkerProcess] = {}
        self._recipe = recipe
        self._module = module

    @cached_property
    def settings(self) -> Settings:
        """What a worker of this house reads from its environment. Raises StartError for a recipe that is wrong."""
        return Settings(
            bootstrap=self.stack.bootstrap,
            redis_url=self.stack.redis_url,
            recipe=named_recipe(self._recipe),
            snapshots=str(self.home / "snapshots"),
            instance=INSTANCE,
        )

    def add(self, name: str) -> WorkerProcess:
        """Adds a worker, not started yet."""
        worker, _, instance = name.partition("-")
        made = self.workers[name] = WorkerProcess(
            worker,
            home=self.home,
            bootstrap=self.stack.bootstrap,
            redis_url=self.stack.redis_url,
            recipe=self._recipe,
            instance=instance or INSTANCE,
            module=self._module,
        )
        return made

    def start(self, *names: str, announce: Callable[[WorkerProcess], None] = lambda worker: None) -> None:
        """Starts workers, all at once, and tells of each when its loop beats.

        Raises StackError, with the end of its log, if one does not come up.
        """
        started = [self.add(name) for name in names]
        for worker in started:
            worker.child.start()
        for worker in started:
            worker.await_ready()
            announce(worker)

    def fallen(self) -> Fallen | None:
        """What ended by itself; None while all is well."""
        for server in (self.stack.broker, self.stack.redis):
            if not server.alive():
                return Fallen(server.version, server.end(), server.last_words())
        for name, worker in self.workers.items():
            if not worker.child.alive():
                return Fallen(name, worker.child.end(), worker.child.last_words())
        return None

    def stop_workers(self) -> None:
        """Stops them all at once; each ends with what it holds delivered and committed."""
        for worker in self.workers.values():
            worker.child.ask_to_stop()
        for worker in self.workers.values():
            worker.child.stop()
        self.workers.clear()


@contextmanager
def open_house(
    home: Path,
    *,
    recipe: str | None,
    workers: Sequence[str] = (),
    broker: BrokerChoice = "auto",
    module: str = "streams.cli",
    named_topics: bool = True,
    announce: Callable[[str], None] = lambda line: None,
) -> Iterator[House]:
    """Starts servers as `local_stack` does, makes the topics that are missing, and starts these workers.

    Args:
        home: the folder of data, logs and snapshots; one house at a time.
        recipe: as `load_recipe` takes it; None: that of TIDERANK_RECIPE.
        module: what `python -m` runs as a worker.
        named_topics: whether topics are made on a broker that was named to us, too.

    Raises StackError if something does not start; nothing is left running.
    """
    with local_stack(home, broker=broker, announce=announce) as stack:
        house = House(stack, home, recipe=recipe, module=module)
        try:
            if named_topics or stack.broker.ours:
                house.kafka.create_topics()
            house.start(*workers)
            yield house
        finally:
            house.stop_workers()


@contextmanager
def private_house(
    name: str, recipe: str, workers: Sequence[str], *, broker: BrokerChoice, announce: Callable[[str], None]
) -> Iterator[House]:
    """Opens a house for one run, in a folder that goes with it: what `--up` of a command starts."""
    with (
        tempfile.TemporaryDirectory(prefix=f"tiderank-{name}-") as folder,
        open_house(Path(folder), recipe=recipe, workers=workers, broker=broker, announce=announce) as house,
    ):
        yield house
