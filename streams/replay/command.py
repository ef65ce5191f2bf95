"""`tiderank replay`."""

import itertools
import json
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import click

from feature_store.join import Joiner
from streams.audit import AuditReport, run_audit
from streams.client import RankingClient
from streams.errors import StartError
from streams.local.private import private_stack
from streams.local.stack import BrokerChoice
from streams.ranges import SEED
from streams.redis_client import PATIENT_S, connect
from streams.replay.driver import Pace, Replay, Sent, shift_into_the_past
from streams.replay.fetch import Unavailable
from streams.replay.log import LoggedImpression, TrafficLog
from streams.replay.recipe import PREFIX
from streams.replay.report import ReplayReport, grade
from streams.replay.sources import open_log
from streams.replay.watch import Watch
from streams.settings import Settings, from_environment

SETTLE_S = 60.0
WORKERS = ("rank", "ingest", "train")


@click.command("replay")
@click.argument("log")
@click.option("--map", "mapping", type=click.Path(path_type=Path, dir_okay=False), help="Column mapping of a file.")
@click.option("--speed", default="max", show_default=True, help="Event time over wall time, or max.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many impressions.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the other candidates of each request.")
@click.option("--up", is_flag=True, help="Start a broker, a Redis and the workers for this run alone.")
@click.option(
    "--broker",
    type=click.Choice(["auto", "kafka", "memory"]),
    default="auto",
    help="With --up: force a kind of broker.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object last.")
def replay_command(
    log: str,
    mapping: Path | None,
    speed: str,
    limit: int | None,
    seed: int,
    up: bool,
    broker: BrokerChoice,
    as_json: bool,
) -> None:
    """Replay LOG in event time and judge the predictions: obd, ml-100k, or a .csv or .parquet FILE with --map.

    Without --up, the workers rank, ingest and train must run with `--recipe log:LOG` (of a file: `log:MAPPING.toml`).
    Exit status 1 if the audit finds an event lost or doubled.
    """
    pace = _pace(speed)
    try:
        source = open_log(log, mapping)
        rows = list(itertools.islice(source.read(), limit))
    except (ValueError, Unavailable) as error:
        raise StartError(str(error)) from error
    if not rows:
        raise StartError(f"{source.name} holds no impressions")
    recipe = f"{PREFIX}{mapping or log}"
    house = (
        private_stack("replay", recipe, WORKERS, broker=broker, announce=partial(click.echo, err=True))
        if up
        else nullcontext(from_environment(recipe=recipe))
    )
    with house as settings:
        report = run_replay(settings, source, rows, pace=pace, seed=seed, bar=_bar(source.name, len(rows)))
    click.echo(json.dumps(report.as_dict()) if as_json else report.text())
    if not report.audit.ok:
        sys.exit(1)


def run_replay(
    settings: Settings,
    source: TrafficLog,
    rows: list[LoggedImpression],
    *,
    pace: Pace,
    seed: int = 0,
    bar: Callable[[Sent], None] = lambda sent: None,
) -> ReplayReport:
    """Replays the rows, of which there must be one, against running workers; waits until all is joined and learned.

    Raises StreamError where something stalls.
    """
    shift_ms = shift_into_the_past(rows[-1].event_ms, source.click_window_ms, time.time_ns() // 1_000_000)
    joiner = Joiner(connect(settings.redis_url, timeout_s=PATIENT_S), settings.recipe.log, settings.recipe.join)
    with RankingClient(settings.kafka) as client:
        watch = Watch(settings.kafka, joiner)
        try:
            replay = Replay(
                client,
                watch,
                source,
                pace=pace,
                prefix=f"replay-{time.time_ns() // 1_000_000:x}",
                shift_ms=shift_ms,
                seed=seed,
                tell=bar,
            )
            replay.await_model(rows[0].event_ms)
            sent = replay.run(iter(rows))
            _settle(watch, sent)
            return _report(source, sent, watch, shift_ms, run_audit(settings))
        finally:
            watch.close()


def _settle(watch: Watch, sent: Sent) -> None:
    """Until every scored impression is a learned example, or nothing more comes."""
    end_s = time.monotonic() + SETTLE_S
    while time.monotonic() < end_s and (len(watch.graded) < sent.with_prediction or watch.unlearned()):
        watch.poll()
        time.sleep(0.02)


def _report(source: TrafficLog, sent: Sent, watch: Watch, shift_ms: int, audit: AuditReport) -> ReplayReport:
    try:
        grades, why = grade(watch.graded), ""
    except ValueError as error:
        grades, why = None, f"no grades: {error}"
    return ReplayReport(
        log=source.name,
        notes=source.notes,
        sent=sent,
        joined=len(watch.graded),
        joined_clicks=watch.clicked,
        repeated=watch.repeated,
        unlearned=watch.unlearned(),
        updates=watch.updates,
        shift_ms=shift_ms,
        audit=audit,
        grades=grades,
        why_no_grades=why,
    )


def _pace(speed: str) -> Pace:
    try:
        return Pace(speed=None if speed == "max" else float(speed))
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
