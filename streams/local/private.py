"""A stack and workers of one run's own, in a folder that goes with them: what `--up` of a command starts."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from streams.config.load import load_recipe
from streams.config.settings import Settings
from streams.local.stack import BrokerChoice, local_stack
from streams.local.workers import WorkerProcess


@contextmanager
def private_stack(
    name: str, recipe: str, workers: Sequence[str], *, broker: BrokerChoice, announce: Callable[[str], None]
) -> Iterator[Settings]:
    """Servers, topics, and one of each of `workers` at work with that recipe (as `load_recipe` takes it).

    Yields what a worker of this stack would read from its environment. Raises StackError if something does not start.
    """
    loaded = load_recipe(recipe)
    with ExitStack() as running:
        home = Path(running.enter_context(tempfile.TemporaryDirectory(prefix=f"tiderank-{name}-")))
        stack = running.enter_context(local_stack(home, broker=broker, announce=announce))
        settings = Settings(
            bootstrap=stack.bootstrap,
            redis_url=stack.redis_url,
            recipe=loaded,
            snapshots=str(home / "snapshots"),
            instance=name,
        )
        settings.kafka.create_topics()
        processes = [
            WorkerProcess(worker, home=home, recipe=recipe, bootstrap=settings.bootstrap, redis_url=settings.redis_url)
            for worker in workers
        ]
        for process in processes:
            running.callback(process.child.stop)
            process.child.start()
        for process in processes:
            process.await_ready()
        yield settings
