"""The console command.

A module that declares a subcommand imports at its top what the command line needs, and no more: what runs is imported
when it runs. So `tiderank ingest` loads no torch, and neither does any --help.
"""

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import click

from streams.errors import StreamError
from streams.options import (
    SEED,
    Finite,
    broker_option,
    data_option,
    instance_option,
    json_option,
    log_level_option,
    recipe_option,
)
from streams.runtime.installed import check_packages, check_workers

if TYPE_CHECKING:
    from streams.kafka.connection import Kafka
    from streams.local.stack import BrokerChoice

WORKERS = {
    "rank": "streams.workers.rank.worker",
    "ingest": "streams.workers.ingest.worker",
    "train": "streams.workers.train.worker",
    "rewards": "streams.workers.router.rewards",
    "learn": "streams.workers.router.learn",
}
"""By command, the module whose `run_<command>` it runs."""


SECTIONS: dict[str, dict[str, str]] = {
    "Try it": {
        "demo": "Start everything and watch it learn",
        "up": "Start a broker, a Redis, and workers",
        "simulate": "Be an ad system whose truth is known",
        "load": "Ask at given rates; how long answers take",
        "replay": "Replay a log; judge the predictions",
    },
    "Workers": {
        "rank": "Requests in, ranked ads out",
        "ingest": "Events into the user log, and joined",
        "train": "Learn from examples, publish each change",
        "rewards": "What each routing decision earned",
        "learn": "The router's value model and its price",
    },
    "Look": {
        "audit": "Account for every id",
        "freshness": "From an event to the answer that knows it",
        "dlq": "What was refused, and why",
        "user": "One user: show, forget, rebuild",
    },
    "Weights": {
        "updates": "The log of the weights",
        "snapshot": "Snapshots: list, verify, copy elsewhere",
        "rollback": "Go back to an older snapshot",
    },
    "Model": {
        "fit": "Train the model on a plain table",
        "score": "Score a table by a model that fit saved",
        "tiers": "Parameters, operations and time of the tiers",
        "prune": "Remove the hidden units that matter least",
        "compile": "A graph of each tier for this processor",
        "precision": "Layers that are faster in low precision",
        "plan-embeddings": "Size the embedding tables under a budget",
    },
    "Set up": {
        "recipe": "A recipe's settings: show, compare, look up",
        "doctor": "What is here, what is wrong, and the mend",
        "topics": "The topics on the broker",
        "access": "The rights of each worker in Kafka and Redis",
        "asyncapi": "The AsyncAPI document of the messages",
    },
}
"""Every command, in the order and with the words of `tiderank --help`."""


class _Commands(click.Group):
    """Some commands are defined beside what they run, and imported when they are called, not to be listed."""

    ELSEWHERE: ClassVar[dict[str, str]] = {
        "simulate": "streams.simulate.command",
        "load": "streams.load.command",
        "freshness": "streams.freshness.command",
        "fit": "streams.fit.command",
        "score": "streams.fit.command",
        "replay": "streams.replay.command",
        "plan-embeddings": "streams.tuning.plan_embeddings",
        "updates": "streams.operations.updates",
        "access": "streams.operations.access",
        "recipe": "streams.operations.recipe",
        "user": "streams.user.command",
        "snapshot": "streams.operations.snapshot",
        "rollback": "streams.operations.rollback",
        "tiers": "streams.tuning.tiers",
        "prune": "streams.tuning.prune",
        "compile": "streams.tuning.compile",
        "precision": "streams.tuning.precision",
    }

    CHILDREN: ClassVar[dict[str, tuple[tuple[str, str], ...]]] = {
        "updates": (("streams.tuning.encodings", "encodings"),)
    }
    """Subcommands of a group that are defined in a room of their own: by group, module and attribute."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for section in SECTIONS.values() for name in section]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, section in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(list(section.items()))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.ELSEWHERE:
            return click.Command(cmd_name)
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name in self.ELSEWHERE:
            module = import_module(self.ELSEWHERE[name])
            command: click.Command | None = getattr(module, f"{name.replace('-', '_')}_command")
        else:
            _, command, _ = super().resolve_command(ctx, args)
        for room, child in self.CHILDREN.get(name, ()):
            assert isinstance(command, click.Group), f"CHILDREN: {name} is no group"
            command.add_command(getattr(import_module(room), child))
        return name, command, args[1:]


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="tiderank", prog_name="tiderank")
def cli() -> None:
    """A streaming ad-ranking system that never goes stale.

    `tiderank demo` shows all of it at work. `tiderank up` starts a broker and a Redis; then rank, ingest, train,
    rewards and learn are the workers, each a process of its own; rank and ingest can be started many times.
    """


def main() -> None:
    """Entry point: an error that a person can mend is one line and exit status 2."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except StreamError as error:
        click.echo(f"tiderank: {error}", err=True)
        sys.exit(2)
    except Exception as error:
        from streams.operations.mending import mendable

        reason = mendable(error)
        if reason is None:
            raise
        click.echo(f"tiderank: {reason}", err=True)
        sys.exit(2)


def _worker(name: str, summary: str) -> None:
    @cli.command(name, help=summary)
    @recipe_option
    @instance_option
    @click.option("--metrics-port", type=int, envvar="TIDERANK_METRICS_PORT", help="Serve Prometheus metrics here.")
    @click.option("--metrics-host", envvar="TIDERANK_METRICS_HOST", default="127.0.0.1", show_default=True)
    @log_level_option
    def command(
        recipe: str | None, instance: str | None, metrics_port: int | None, metrics_host: str, log_level: str
    ) -> None:
        check_workers()
        from streams.config.settings import from_environment
        from streams.runtime import service

        service.log_to_stderr(name, log_level)
        settings = from_environment(recipe=recipe, instance=instance)
        with service.observed(metrics_host, metrics_port) as heartbeat, service.stop_signals() as stop:
            _runner(name)(settings, stop, heartbeat)


def _runner(name: str) -> Callable[..., None]:
    module = import_module(WORKERS[name])
    runner: Callable[..., None] = getattr(module, f"run_{name}")
    return runner


for _name, _summary in (
    ("rank", "Rank: requests in, ranked ads out, with the newest weights."),
    ("ingest", "Ingest: impressions and conversions into the user logs; labelled examples out."),
    ("train", "Train: learn from examples, publish every change of the weights."),
    ("rewards", "Rewards: what each routing decision earned by the end of its window."),
    ("learn", "Learn: the router's value model and the price of compute, from rewards."),
):
    _worker(_name, _summary)


@cli.command()
@data_option
@broker_option
@click.option("--workers", is_flag=True, help="Start one of each worker too.")
@recipe_option
def up(data: Path | None, broker: "BrokerChoice", workers: bool, recipe: str | None) -> None:
    """Start a broker and a Redis on free loopback ports, until Ctrl-C."""
    check_workers()
    from streams.config.settings import data_dir
    from streams.local.up import up as run_up

    run_up(
        data or data_dir(), announce=click.echo, broker=broker, workers=tuple(WORKERS) if workers else (), recipe=recipe
    )


@cli.command()
@json_option
def doctor(as_json: bool) -> None:
    """Say what was found here, what is wrong, and the mend. Exit status 1 if something needed is wrong."""
    check_packages()
    from streams.operations.doctor import print_report, report

    findings = report()
    if as_json:
        click.echo(json.dumps([finding.as_dict() for finding in findings]))
    else:
        print_report(findings)
    if any(finding.ok is False for finding in findings):
        sys.exit(1)


@cli.group()
def topics() -> None:
    """The topics on the broker."""


@topics.command("create")
@click.option("--replication", type=int, default=1, show_default=True)
def create_topics(replication: int) -> None:
    """Create the topics that are missing, with their settings."""
    from streams.config.settings import BOOTSTRAP, required
    from streams.kafka.connection import Kafka

    made = Kafka.from_environment(required(BOOTSTRAP, "the broker's host:port")).create_topics(replication=replication)
    click.echo(f"created {', '.join(made)}" if made else "all topics were there")


@cli.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
def asyncapi(file: Path | None) -> None:
    """Write the AsyncAPI 3 document of the messages, to FILE or standard output."""
    from streams.operations.asyncapi import document

    text = json.dumps(document(), indent=2) + "\n"
    if file is None:
        click.echo(text, nl=False)
    else:
        file.write_text(text)


@cli.group()
def dlq() -> None:
    """Dead letters: what was refused, and why."""


@dlq.command("ls")
@click.option("--limit", type=int, default=50, show_default=True, help="The newest so many.")
@json_option
def dlq_ls(limit: int, as_json: bool) -> None:
    """List dead letters, oldest first: number, where it was, worker, reason."""
    from streams.operations.dlq import list_letters

    letters = list_letters(_kafka(), limit=limit)
    for letter in letters:
        click.echo(json.dumps(letter.summary()) if as_json else letter.line())
    if not letters and not as_json:
        click.echo("no dead letters")


@dlq.command("show")
@click.argument("number", type=int)
def dlq_show(number: int) -> None:
    """Print one dead letter: its headers, then its original bytes."""
    from streams.operations.dlq import find_letter

    letter = find_letter(_kafka(), number)
    click.echo(json.dumps(letter.summary(), indent=2))
    sys.stdout.flush()
    sys.stdout.buffer.write((letter.record.value or b"") + b"\n")


@dlq.command("replay")
@click.argument("numbers", type=int, nargs=-1)
@click.option("--all", "all_of_them", is_flag=True, help="Every letter that no --all has sent back yet.")
def dlq_replay(numbers: tuple[int, ...], all_of_them: bool) -> None:
    """Send letters to the topics they came from, with their own key, bytes and headers."""
    from streams.operations.dlq import replay

    if bool(numbers) == all_of_them:
        raise click.UsageError("name the letters to replay, or --all")
    lines = 0
    for line in replay(_kafka(), None if all_of_them else set(numbers)):
        lines += 1
        click.echo(line)
    if not lines:
        click.echo("nothing to replay: --all has sent every dead letter back; name a number to send it once more")


@cli.command()
@recipe_option
@click.option(
    "--patience",
    type=Finite(min=0),
    default=10.0,
    show_default=True,
    help="Seconds in which what waits for a worker must be seen to get on.",
)
@json_option
def audit(recipe: str | None, patience: float, as_json: bool) -> None:
    """Account for every id on the topics and in Redis: answered, stored, joined, learned, lost, doubled.

    Exit status 1 if anything is wrong. The system may be running, and should be: what no worker brings on is a fault.
    """
    from streams.audit import run_audit
    from streams.config.settings import from_environment

    report = run_audit(from_environment(recipe=recipe), patience_s=patience)
    click.echo(json.dumps(report.as_dict()) if as_json else report.text())
    if not report.ok:
        sys.exit(1)


@cli.command()
@click.option("--seconds", type=Finite(min=5), default=60.0, show_default=True, help="Length of the measured part.")
@click.option("--rate", type=Finite(min=1, max=500), default=20.0, show_default=True, help="Requests a second.")
@click.option("--seed", type=SEED, default=0, show_default=True)
@click.option(
    "--warm-up-examples",
    type=click.IntRange(min=500),
    default=6_000,  # with fewer, even a frozen copy of a world that stands still would be a bad model
    show_default=True,
    help="Examples to learn, at least, before a copy of the model is frozen.",
)
@broker_option
@data_option
@json_option
def demo(
    seconds: float,
    rate: float,
    seed: int,
    warm_up_examples: int,
    broker: "BrokerChoice",
    data: Path | None,
    as_json: bool,
) -> None:
    """Start everything, drive simulated traffic, and watch it learn."""
    check_workers()
    from streams.demo import Plan, run_demo

    plan = Plan(seconds=seconds, rate=rate, seed=seed, warm_up_examples=warm_up_examples)
    sys.exit(run_demo(plan, broker=broker, data=data, as_json=as_json))


def _kafka() -> "Kafka":
    """The broker named by TIDERANK_BOOTSTRAP, checked to answer."""
    from streams.config.settings import BOOTSTRAP, required
    from streams.kafka.connection import Kafka

    kafka = Kafka.from_environment(required(BOOTSTRAP, "the broker's host:port"))
    kafka.check()
    return kafka


if __name__ == "__main__":
    main()
