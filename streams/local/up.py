"""`tiderank up`: the local stack in the foreground, with workers if asked, until a signal."""

import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from streams.config.settings import named_recipe
from streams.local.house import House, open_house
from streams.local.stack import BrokerChoice, StackError

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
        with open_house(data_dir, recipe=recipe, broker=broker, named_topics=False, announce=announce) as house:
            house.start(
                *workers,
                announce=lambda it: announce(f"{it.name}: metrics at http://127.0.0.1:{it.metrics_port}/metrics"),
            )
            if workers:
                announce(_windows(recipe))
            announce("for other processes:")
            announce(f"  export TIDERANK_BOOTSTRAP={house.stack.bootstrap} TIDERANK_REDIS_URL={house.stack.redis_url}")
            announce(f"logs are in {data_dir / 'logs'}; Ctrl-C stops all")
            _watch(house)
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


def _watch(house: House) -> None:
    while (fallen := house.fallen()) is None:
        time.sleep(WATCH_S)
    raise StackError(
        f"{fallen.name} {fallen.end}, so all that was started here is stopped too; called again, `tiderank up` goes on "
        f"where it was{fallen.last_words}"
    )
