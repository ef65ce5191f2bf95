"""Everything the demo starts: servers, topics, workers, each ended when the block is left."""

import fcntl
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from streams.config.load import load_recipe
from streams.config.settings import Settings
from streams.kafka.connection import Kafka
from streams.local.process import StackError, end_orphans
from streams.local.stack import BrokerChoice, LocalStack, local_stack
from streams.local.workers import WorkerProcess

WORKERS = ("rank", "ingest", "train", "rewards", "learn")
LEFT_BEHIND = ("kafka", "redis", "snapshots", "logs")
"""What a demo leaves in its folder, to be looked at until the next one."""


class House:
    def __init__(self, home: Path, stack: LocalStack) -> None:
        self.home = home
        self.stack = stack
        self.kafka = Kafka(stack.bootstrap, {}) if stack.broker.ours else Kafka.from_environment(stack.bootstrap)
        self.workers: list[WorkerProcess] = []
        self._recipe = home / "demo.toml"

    def set_recipe(self, text: str) -> None:
        """Writes the recipe, as TOML, of the workers that are started afterwards."""
        self._recipe.write_text(text)

    def settings(self) -> Settings:
        """What a worker of this house would read from its environment."""
        return Settings(
            bootstrap=self.stack.bootstrap,
            redis_url=self.stack.redis_url,
            recipe=load_recipe(str(self._recipe)),
            snapshots=str(self.home / "snapshots"),
            instance="demo",
        )

    def start_workers(self) -> None:
        """Starts them all at once; `await_workers` waits for them."""
        for name in WORKERS:
            worker = WorkerProcess(
                name,
                home=self.home,
                bootstrap=self.stack.bootstrap,
                redis_url=self.stack.redis_url,
                recipe=str(self._recipe),
            )
            self.workers.append(worker)
            worker.child.start()

    def await_workers(self, announce: Callable[[str], None]) -> None:
        """Waits until all are ready. Raises StackError, with the end of its log, if one does not come up."""
        for worker in self.workers:
            worker.await_ready()
            announce(f"{worker.name}: ready, process {worker.child.pid}")

    def fallen(self) -> tuple[str, str] | None:
        """The name of what ended by itself, and its last words; None while all is well."""
        for server in (self.stack.broker, self.stack.redis):
            if not server.alive():
                return server.version, server.last_words()
        for worker in self.workers:
            if not worker.child.alive():
                return worker.name, worker.child.last_words()
        return None

    def stop_workers(self) -> None:
        """Stops them all at once; each ends with what it holds delivered and committed."""
        for worker in self.workers:
            worker.child.ask_to_stop()
        for worker in self.workers:
            worker.child.stop()
        self.workers.clear()


def open_house(home: Path, closing: ExitStack, *, broker: BrokerChoice, announce: Callable[[str], None]) -> House:
    """Starts servers and makes topics, all fresh: what an earlier demo left in `home` is removed. Raises StackError."""
    stack = closing.enter_context(_fresh_stack(home, broker, announce))
    house = House(home, stack)
    closing.callback(house.stop_workers)
    house.kafka.create_topics()
    return house


def _fresh_stack(home: Path, broker: BrokerChoice, announce: Callable[[str], None]) -> LocalStack:
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackError(f"another demo runs in {home}; end it, or choose another folder with --data") from None
        end_orphans(home)
        for name in LEFT_BEHIND:
            shutil.rmtree(home / name, ignore_errors=True)
    return local_stack(home, broker=broker, announce=announce)
