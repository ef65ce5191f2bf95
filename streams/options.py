"""What commands share: options, and values (numbers, as click's ranges let nan and inf pass; paths; tables)."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from streams.datasets.options import NULL_WORDS, TableOptions
from streams.errors import StartError, start_errors

_SOME = ", ".join(NULL_WORDS[:6])
SEED = click.IntRange(0, 2**63 - 1)


recipe_option = click.option(
    "--recipe", metavar="NAME|FILE", help="Built-in recipe or a TOML file. [env TIDERANK_RECIPE; default: default]"
)
instance_option = click.option(
    "--instance",
    metavar="NAME",
    help="Name in the group, kept over restarts. [env TIDERANK_INSTANCE; default: host name]",
)
log_level_option = click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
    envvar="TIDERANK_LOG_LEVEL",
    default="info",
    show_default=True,
    help="Least level of the lines on standard error.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object last.")
data_option = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the local stack's data. [env TIDERANK_DATA; default: .data]",
)
broker_option = click.option(
    "--broker", type=click.Choice(["auto", "kafka", "memory"]), default="auto", help="Force a kind of local broker."
)


class Finite(click.FloatRange):
    """A click.FloatRange that refuses nan and inf as well."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"a finite number is needed, got {value}", param, ctx)
        return number


def path(text: str) -> Path:
    """On this machine's disks. Raises StartError for a URL, of which pathlib would make a folder `s3:`."""
    if "://" in text:
        raise StartError(
            f"a path on this machine's disks is needed, got the URL {text}: copy it here first, or from here"
        )
    return Path(text)


def table_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a command that reads a table: what `tables` makes TableOptions of."""
    for option in (
        click.option(
            "--encoding", metavar="NAME", help="Encoding of a CSV file.  [default: UTF-8, or UTF-16 by its mark]"
        ),
        click.option(
            "--null",
            "null_words",
            multiple=True,
            metavar="WORD",
            help=f"A text that means no value, as empty text does; may be repeated.  [default: {_SOME}, ...]",
        ),
    ):
        command = option(command)
    return command


def tables(null_words: tuple[str, ...], encoding: str | None, default: tuple[str, ...] = NULL_WORDS) -> TableOptions:
    """Raises StartError for an encoding that is not known."""
    with start_errors():
        return TableOptions(null_words=null_words or default, encoding=encoding)
