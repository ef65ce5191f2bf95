"""`tiderank user`: show, forget, rebuild."""

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from streams.config.settings import from_environment
from streams.options import json_option, recipe_option

if TYPE_CHECKING:
    from streams.user.forget import Report, Row
    from streams.user.records import Kept


@click.group("user")
def user_command() -> None:
    """One user: what is stored, removing it, and refilling the log from Kafka."""


@user_command.command("show")
@click.argument("user")
@click.option(
    "--limit", type=click.IntRange(0, 100_000), default=20, show_default=True, help="The newest so many events."
)
@recipe_option
@json_option
def show(user: str, limit: int, recipe: str | None, as_json: bool) -> None:
    """Show USER's log: where it stands and its newest events, oldest first. Items, surfaces and
    kinds of your own are kept as hashes."""
    from feature_store.events import action_name, decode_events
    from feature_store.rebuild import read_whole
    from streams.runtime.redis_client import PATIENT_S, connect

    settings = from_environment(recipe=recipe)
    log = read_whole(connect(settings.redis_url, timeout_s=PATIENT_S), user, settings.recipe.log)
    stored = decode_events(b"".join(log.records[len(log.records) - min(limit, len(log.records)) :]))
    names: tuple[str, ...] = stored.dtype.names or ()
    events = [dict(zip(names, event.tolist(), strict=True)) for event in stored]
    if as_json:
        found = {"user": user, "generation": log.position.generation, "count": log.position.count}
        click.echo(json.dumps(found | {"held": len(log.records), "events": events}))
        return
    if not log.records:
        click.echo(f"{user!r} has no log")
        return
    click.echo(f"{log.position.count:,} events, {len(log.records):,} held; generation {log.position.generation}")
    for event in events:
        click.echo(
            f"{_time(1000 * event['time_s'])}  {action_name(event['action']):<11}  surface {event['surface']:<3} "
            f"item {event['item']:016x}  value {event['value']:g}"
        )


@user_command.command("forget")
@click.argument("user")
@click.option(
    "--no-scan", is_flag=True, help="Do not read the topics for USER's records: say only how long Kafka keeps."
)
@recipe_option
@json_option
def forget(user: str, no_scan: bool, recipe: str | None, as_json: bool) -> None:
    """Remove USER from Redis, and say what Kafka and the weights still hold, and until when.

    Stop sending the user's events first: what is under way, or comes later, begins a new log. Calling it again is
    harmless, and removes that too.
    """
    from streams.user.forget import forget as run_forget

    report = run_forget(from_environment(recipe=recipe), user, scan=not no_scan)
    if as_json:
        click.echo(json.dumps(report.as_dict()))
        return
    for line in _lines(report):
        click.echo(line)


@user_command.command("rebuild")
@click.argument("user")
@recipe_option
@json_option
def rebuild(user: str, recipe: str | None, as_json: bool) -> None:
    """Refill USER's log from the impressions and conversions that Kafka still keeps.

    An event that the log holds is not stored again. Where one was missing the log becomes a new generation: labels
    still to come of what was served before are skipped. Pending labels are not made again.
    """
    from streams.user.rebuild import rebuild as run_rebuild

    done = run_rebuild(from_environment(recipe=recipe), user)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "user": user,
                    "events": done.events,
                    "held_before": done.held_before,
                    "held": done.held,
                    "generation": done.position.generation,
                    "count": done.position.count,
                    "changed": done.changed,
                }
            )
        )
        return
    click.echo(f"Kafka keeps {done.events:,} events of {user!r} that ingest has handled")
    if done.changed:
        click.echo(f"the log held {done.held_before:,} events and now holds {done.held:,}, as a new generation")
    else:
        click.echo(f"nothing was missing: the log holds {done.held:,} events")


def _lines(report: "Report") -> list[str]:
    removed, user = report.redis, report.user
    if report.was_known:
        lines = [
            f"removed from Redis: the log ({removed.events:,} events), {removed.served:,} served records, "
            f"{removed.impressions:,} impressions and {removed.actions:,} clicks and conversions that waited, "
            f"{removed.timers:,} timers left over, {report.decisions:,} router decisions"
        ]
    else:
        lines = [f"Redis held nothing of {user!r}"]
    lines += ["Kafka still holds (to be read by nobody but its own readers; it cannot remove single records):"]
    lines += [f"  {_kept(kept)}" for kept in report.kafka]
    lines += [f"weights: {_row(row)}" for row in report.rows] or ["weights: the model has no slot of the user's id"]
    lines += [
        "what is under way or comes later begins a new log: stop sending the user's events, then forget once more"
    ]
    return lines


def _kept(kept: "Kept") -> str:
    days = "until its size limit" if kept.kept_ms is None else f"{kept.kept_ms / 86_400_000:.1f} days at most"
    if kept.records is None:
        return f"{kept.topic:<20} not read; each record is kept {days}"
    if kept.records == 0:
        return f"{kept.topic:<20} nothing"
    gone = "" if kept.gone_ms is None else f"; gone by {_time(kept.gone_ms)}"
    return f"{kept.topic:<20} {kept.records:,} records of {_time(kept.oldest_ms)} to {_time(kept.newest_ms)}{gone}"


def _row(row: "Row") -> str:
    leaves = (
        "when another key needs it" if row.idle_steps is None else f"after {row.idle_steps:,} steps without the user"
    )
    return (
        f"table {row.table} may have a row for the id's hash (key {row.key:016x}). Nothing more is learned into it; it "
        f"leaves {leaves}. Snapshots keep it until they are removed"
    )


def _time(ms: Any) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
