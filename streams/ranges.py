"""Values of the command line: numbers, as click's ranges let nan and inf pass, and paths, as it lets URLs."""

import math
from pathlib import Path
from typing import Any

import click

from streams.errors import StartError

SEED = click.IntRange(0, 2**63 - 1)


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
