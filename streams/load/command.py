"""`tiderank load`."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import click
from redis.exceptions import RedisError

from streams.config.builtin import RECIPES
from streams.config.load import load_recipe
from streams.config.settings import Settings, from_environment
from streams.errors import StartError, StreamError, start_errors
from streams.load.fill import check_length
from streams.load.measure import LoadOptions
from streams.load.plot import figure_module, plot
from streams.load.report import LoadReport
from streams.load.run import Say, prepared_load
from streams.load.schedule import Pacing, due_times
from streams.load.search import Sustained
from streams.local.house import WORKERS, private_house
from streams.local.stack import BrokerChoice
from streams.machine import this_machine
from streams.options import SEED, Finite
from streams.runtime.redis_client import redacted


class Rates(click.ParamType):
    """Numbers with commas between them."""

    name = "rate[,rate...]"

    def convert(
        self, value: str | tuple[float, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in value.split(","))
        except ValueError:
            self.fail(f"rates are numbers with commas between them, as 20,40,80; got {value!r}", param, ctx)


@click.command("load")
@click.option(
    "--rate", "rates", type=Rates(), default="20", show_default=True, help="Requests a second; several: a row each."
)
@click.option("--seconds", type=float, default=30.0, show_default=True, help="Seconds that each rate lasts.")
@click.option("--candidates", type=int, default=100, show_default=True, help="Candidates of every request.")
@click.option(
    "--log-length", type=int, default=512, show_default=True, help="Events that every user's log is filled to."
)
@click.option("--users", type=int, default=100, show_default=True)
@click.option("--deadline-ms", type=int, default=1_000, show_default=True, help="Deadline of every request.")
@click.option("--timeout-ms", type=int, default=5_000, show_default=True, help="An answer later than this is none.")
@click.option("--pacing", type=click.Choice(["poisson", "uniform"]), default="poisson", show_default=True)
@click.option(
    "--events/--no-events", default=True, show_default=True, help="Show, click and buy, so that weights change."
)
@click.option("--warm-up", type=Finite(min=0), default=5.0, show_default=True, help="Seconds, at the first rate.")
@click.option("--seed", type=SEED, default=0, show_default=True)
@click.option("--find-max", "search", is_flag=True, help="Search the highest sustained rate, from the first rate on.")
@click.option(
    "--p99-ms",
    type=Finite(min=0, min_open=True),
    default=100.0,
    show_default=True,
    help="With --find-max: bound of a sustained rate.",
)
@click.option("--up", is_flag=True, help="Start a broker, a Redis and the workers for this run alone.")
@click.option(
    "--broker", type=click.Choice(["auto", "kafka", "memory"]), default="auto", help="With --up: kind of broker."
)
@click.option(
    "--recipe", metavar="NAME|FILE", help="Recipe of the workers. [with --up: demo; else env TIDERANK_RECIPE]"
)
@click.option("--tier", metavar="NAME", help="With --up: the only plan of the router.")
@click.option(
    "--plot", "picture", type=click.Path(path_type=Path, dir_okay=False), help="Draw latency against rate (PNG)."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object last.")
def load_command(
    rates: tuple[float, ...],
    seconds: float,
    candidates: int,
    log_length: int,
    users: int,
    deadline_ms: int,
    timeout_ms: int,
    pacing: Pacing,
    events: bool,
    warm_up: float,
    seed: int,
    search: bool,
    p99_ms: float,
    up: bool,
    broker: BrokerChoice,
    recipe: str | None,
    tier: str | None,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Ask for rankings at a given rate, whatever comes back, and say how long the answers took.

    Open loop: when each request is due is fixed beforehand, and its latency counts from then, so a stall of the ranker
    (or of this sender) is seen by every request that was due meanwhile. Users' logs are filled first, by events.
    """
    say, machine = partial(click.echo, err=True), this_machine()
    try:
        options = LoadOptions(
            seconds=seconds,
            candidates=candidates,
            users=users,
            deadline_ms=deadline_ms,
            timeout_ms=timeout_ms,
            pacing=pacing,
            events=events,
            seed=seed,
        )
        for rate in rates:
            due_times(rate, seconds)
        # A warm-up has at least one request, however low the rate.
        warming = (rates[0], max(warm_up, 1 / rates[0])) if warm_up else None
        if warming is not None:
            due_times(*warming)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if picture is not None:
        _check_picture(picture)
    sustained = Sustained(p99_ms=p99_ms) if search else None
    with _house(up, broker, recipe, tier, log_length) as settings:
        try:
            report = _run(settings, options, rates, log_length, warming, sustained, machine, say)
        except RedisError as error:
            raise StreamError(f"Redis at {redacted(settings.redis_url)} went away: {error}") from error
    if picture is not None:
        plot(report.rows, report.where, picture)
        say(f"drawn: {picture}")
    click.echo(json.dumps(report.as_dict()) if as_json else report.text())


def _run(
    settings: Settings,
    options: LoadOptions,
    rates: tuple[float, ...],
    log_length: int,
    warm_up: tuple[float, float] | None,
    sustained: Sustained | None,
    machine: str,
    say: Say,
) -> LoadReport:
    with prepared_load(settings, options, log_length=log_length, warm_up=warm_up, say=say) as load:
        max_rate = None
        if sustained is None:
            rows = load.measure_all(rates)
        else:
            max_rate, rows = load.find_max(rates[0], sustained)
        broker = "in-memory broker" if settings.kafka.in_memory else "Kafka"
        return LoadReport(
            options=options,
            log_length=log_length,
            log_lengths=load.log_lengths(),
            rows=rows,
            where=f"{machine}; {broker}",
            sustained=sustained,
            max_rate=max_rate,
        )


@contextmanager
def _house(up: bool, broker: BrokerChoice, recipe: str | None, tier: str | None, log_length: int) -> Iterator[Settings]:
    """Settings of the workers to be loaded: those of the environment, or our own. Refuses before it starts anything."""
    if not up:
        if tier is not None or broker != "auto":
            raise click.UsageError("--tier and --broker choose what --up starts; running workers have their own recipe")
        settings = from_environment(recipe=recipe)
        with start_errors():
            check_length(log_length, settings.recipe.log)
        yield settings
        return
    with tempfile.TemporaryDirectory(prefix="tiderank-recipe-") as folder:
        chosen = one_tier_recipe(recipe or "demo", tier, Path(folder)) if tier else recipe or "demo"
        with start_errors():
            check_length(log_length, load_recipe(chosen).log)
        with private_house("load", chosen, WORKERS, broker=broker, announce=partial(click.echo, err=True)) as house:
            yield house.settings


def one_tier_recipe(base: str, tier: str, folder: Path) -> str:
    """Writes a recipe that is the built-in `base` with this tier as the only plan of its router; returns its path.

    Raises StartError where base is not a built-in one, or has no such tier.
    """
    if base not in RECIPES:
        raise StartError(
            f"--tier goes with a built-in recipe, {sorted(RECIPES)}, got {base!r}; "
            'of a file, write what it is to run: [routing] tiers = ["..."], cascades = []'
        )
    with start_errors():
        RECIPES[base]().model.tier(tier)
    file = folder / f"{base}-{tier}.toml"
    file.write_text(f"base = {json.dumps(base)}\n[routing]\ntiers = [{json.dumps(tier)}]\ncascades = []\n")
    return str(file)


def _check_picture(file: Path) -> None:
    """Raises, before a run rather than after it, where the picture could not be drawn."""
    figure_module()
    if file.suffix != ".png" or not file.absolute().parent.is_dir():
        raise click.UsageError(f"--plot writes a .png into a folder that exists, got {str(file)!r}")
    file.touch()
