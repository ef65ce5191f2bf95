"""`tiderank freshness`: how long after an event the serving weights know of it."""

import json

import click

from streams.options import Finite, json_option


@click.command("freshness")
@click.option("--seconds", type=Finite(min=1), default=30.0, show_default=True, help="How long to watch.")
@json_option
def freshness_command(seconds: float, as_json: bool) -> None:
    """Watch a running system: how long after an event the weights that serve have learned from it, by stage.

    Ctrl-C ends the watching and shows what there is.
    By the first answer that knows it, whatever its tier; and by the first of each tier (`by_tier` of --json).
    """
    from streams.config.settings import BOOTSTRAP, required
    from streams.freshness.feed import measure
    from streams.freshness.meter import summarize
    from streams.kafka.connection import Kafka

    kafka = Kafka.from_environment(required(BOOTSTRAP, "the broker's host:port"))
    kafka.check()
    click.echo(f"watching for {seconds:g} s", err=True)
    watched = measure(kafka, seconds)
    found = watched.by_tier
    summary = summarize(found.pop(None))
    by_tier = {tier or "": summarize(events) for tier, events in sorted(found.items(), key=str)}
    if as_json:
        click.echo(json.dumps(summary | {"by_tier": by_tier}))
        return
    if not summary:
        click.echo(f"no event reached what is served: {watched.what_is_missing()}")
    lines = [
        *summary.items(),
        *((f"click, {t}", causes["click"]) for t, causes in by_tier.items() if "click" in causes),
    ]
    for name, events in lines:
        stages = ", ".join(f"{stage} {ms['p50']:.0f}" for stage, ms in events["stages_ms"].items())
        click.echo(
            f"{name:<13}{events['count']:>6} events: p50 {events['ms']['p50']:.0f} ms, "
            f"p99 {events['ms']['p99']:.0f} ms (medians: {stages})"
        )
