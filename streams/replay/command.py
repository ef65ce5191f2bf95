"""`tiderank replay`."""

import itertools
import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import click

from streams.config.logged import PREFIX
from streams.config.settings import BOOTSTRAP, REDIS_URL, from_environment, named_recipe
from streams.datasets.logs.fetch import Unavailable
from streams.datasets.logs.sources import open_log
from streams.errors import StartError
from streams.local.house import private_house
from streams.local.stack import BrokerChoice
from streams.options import SEED
from streams.replay.driver import Pace, Sent, shift_into_the_past

WORKERS = ("rank", "ingest", "train")


@click.command("replay")
@click.argument("log")
@click.option("--map", "mapping", type=click.Path(path_type=Path, dir_okay=False), help="Column mapping of a file.")
@click.option(
    "--recipe",
    metavar="NAME|FILE",
    help="Recipe to judge: built-in, a TOML file, or log:LOG.  [default: the log's own, log:LOG or log:MAPPING.toml]",
)
@click.option("--speed", default="max", show_default=True, help="Event time over wall time, or max.")
@click.option(
    "--lag",
    type=click.IntRange(0, 100_000),
    default=256,
    show_default=True,
    help="Most examples that the trainer may be behind; 0: each page is learned before the next is scored.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many impressions.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of the other candidates of each request.")
@click.option("--up", is_flag=True, help="Start a broker, a Redis and the workers for this run alone.")
@click.option(
    "--broker",
    type=click.Choice(["auto", "kafka", "memory"]),
    default="auto",
    help="With --up: force a kind of broker.",
)
@click.option("--again", is_flag=True, help="Take a house that has learned before; its model may know the labels.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object last.")
def replay_command(
    log: str,
    mapping: Path | None,
    recipe: str | None,
    speed: str,
    lag: int,
    limit: int | None,
    seed: int,
    up: bool,
    broker: BrokerChoice,
    again: bool,
    as_json: bool,
) -> None:
    """Replay LOG in event time and judge the predictions: obd, ml-100k, or a Parquet or CSV file's path
    or URL with --map.

    Without --up, the workers rank, ingest and train must run with the recipe that is judged (without --recipe:
    `--recipe log:LOG`, of a file `log:MAPPING.toml`), and have learned nothing yet. Of several tiers, the router's
    exploration chooses; name one in routing.tiers to judge it alone.

    Exit status 1 if the audit finds an event lost or doubled, or nothing could be graded.
    """
    from streams.replay.printed import as_text
    from streams.replay.recipe_fit import check_recipe
    from streams.replay.run import run_replay

    pace = _pace(speed, lag)
    if up and (named := [name for name in (BOOTSTRAP, REDIS_URL) if os.environ.get(name)]):
        raise StartError(
            f"--up starts a broker and a Redis for this run alone, and {' and '.join(named)} name running ones, whose "
            f"workers its own would drive out: unset {' '.join(named)}, or leave out --up to replay into that house"
        )
    try:
        source = open_log(log, mapping)
        rows = list(itertools.islice(source.read(), limit))
    except (ValueError, Unavailable) as error:
        raise StartError(str(error)) from error
    if not rows:
        raise StartError(f"{source.name} holds no impressions")
    own = f"{PREFIX}{mapping or log}"
    name = recipe or own
    judged = named_recipe(name)
    shift_ms = shift_into_the_past(rows[-1].event_ms, judged.join.click_window_ms, time.time_ns() // 1_000_000)
    check_recipe(judged, source, first_ms=rows[0].event_ms + shift_ms, own=own)
    with ExitStack() as running:
        if up:
            announce = partial(click.echo, err=True)
            house = private_house("replay", name, WORKERS, broker=broker, announce=announce)
            settings = running.enter_context(house).settings
        else:
            settings = from_environment(recipe=name)
        bar = _bar(source.name, len(rows))
        report = run_replay(settings, source, rows, pace=pace, seed=seed, again=again, bar=bar)
    click.echo(json.dumps(report.as_dict()) if as_json else as_text(report))
    if not report.ok:
        sys.exit(1)


def _pace(speed: str, lag: int) -> Pace:
    try:
        return Pace(speed=None if speed == "max" else float(speed), lag=lag)
    except ValueError as error:
        raise click.BadParameter(f"{speed!r}: {error}", param_hint="--speed") from error


def _bar(name: str, total: int) -> Callable[[Sent], None]:
    """A bar on a terminal, else a line every five seconds; both on standard error."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress

        progress = Progress(console=Console(stderr=True))
        task = progress.add_task(name, total=total)
        progress.start()

        def show(sent: Sent) -> None:
            progress.update(task, completed=sent.requests)
            if sent.requests >= total:
                progress.stop()

        return show
    said = deque([time.monotonic()], maxlen=1)

    def say(sent: Sent) -> None:
        if time.monotonic() - said[0] >= 5.0 or sent.requests >= total:
            said.append(time.monotonic())
            rate = sent.requests / max(sent.seconds, 1e-9)
            click.echo(f"{name}: {sent.requests} of {total} sent, {sent.clicks} clicks, {rate:.0f}/s", err=True)

    return say
