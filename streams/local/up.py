"""`tiderank up`: the local stack in the foreground, with workers if asked, until a signal."""

import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import click

from streams.config.settings import named_recipe
from streams.kafka.connection import Kafka
from streams.local.stack import BrokerChoice, LocalStack, StackError, local_stack
from streams.local.workers import WorkerProcess

WATCH_S = 0.5


def up(
    data_dir: Path,
    *,
    broker: BrokerChoice = "auto",
    workers: Sequence[str] = (),
    recipe: str | None = None,
    announce: Callable[[str], None] = click.echo,
) -> None:
    """Starts both servers, makes the topics on a broker of ours, starts one of each of `workers`, says where all is,
    and waits for Ctrl-C or SIGTERM.

    Returns after a clean stop. Raises StackError if something does not start, or ends by itself later.
    """
    if workers:
        named_recipe(recipe)  # a wrong one is said now, not by each worker's log
    # Both ways of asking us to stop then take the same way out, from wherever we are.
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with local_stack(data_dir, broker=broker, announce=announce) as stack, ExitStack() as running:
            if stack.broker.ours:
                Kafka(stack.bootstrap, {}).create_topics()
            processes = [_worker(name, stack, data_dir, recipe, running) for name in workers]
            for process in processes:
                process.await_ready()
                announce(f"{process.name}: metrics at http://127.0.0.1:{process.metrics_port}/metrics")
            if workers:
                announce(_windows(recipe))
            announce("for other processes:")
            announce(f"  export TIDERANK_BOOTSTRAP={stack.bootstrap} TIDERANK_REDIS_URL={stack.redis_url}")
            announce(f"logs are in {data_dir / 'logs'}; Ctrl-C stops all")
            _watch(stack, processes)
    except KeyboardInterrupt:
        announce("stopped")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _windows(recipe: str | None) -> str:
    chosen = named_recipe(recipe)
    said_ms = chosen.join.click_elapsed_ms or chosen.join.click_window_ms
    return (
        f"recipe {chosen.name}: what is not clicked within {said_ms / 1000:g} s is learned as such then; until the "
        "first is, a new model learns nothing"
    )


def _worker(name: str, stack: LocalStack, home: Path, recipe: str | None, running: ExitStack) -> WorkerProcess:
    process = WorkerProcess(name, home=home, bootstrap=stack.bootstrap, redis_url=stack.redis_url, recipe=recipe)
    running.callback(process.child.stop)
    process.child.start()
    return process


def _watch(stack: LocalStack, workers: Sequence[WorkerProcess]) -> None:
    while True:
        for server in (stack.broker, stack.redis):
            if not server.alive():
                raise StackError(f"{server.version} ended by itself{server.last_words()}")
        for worker in workers:
            if not worker.child.alive():
                raise StackError(
                    f"{worker.name} {worker.child.end()}, so the servers and the other workers are stopped too; called "
                    f"again, `tiderank up --workers` goes on where they were{worker.child.last_words()}"
                )
        time.sleep(WATCH_S)
