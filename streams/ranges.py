"""Numbers of the command line: click's ranges, which nan passes and inf may."""

import math
from typing import Any

import click

SEED = click.IntRange(0, 2**63 - 1)


class Finite(click.FloatRange):
    """A click.FloatRange that refuses nan and inf as well."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"a finite number is needed, got {value}", param, ctx)
        return number
