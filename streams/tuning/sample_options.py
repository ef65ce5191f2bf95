"""Which traffic a command samples, on its command line. Knows nothing of torch; sample.py does the work."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import click

from streams.options import SEED
from streams.simulate.config import WORLDS

Source = Literal["simulate", "kafka"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleOptions:
    source: Source = "simulate"
    responses: int = 2_000
    """Responses to sample: a part gives contributions, and the rest is held out."""
    train: int = 4_000
    """Simulated responses that a model is trained on where no snapshot is given."""
    world: str = "demo"
    seed: int = 0


def sample_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command the options of a sample, as its `sample`, and of where the `snapshot` is."""
    default = SampleOptions()

    @functools.wraps(command)
    def gathered(*, source: Source, responses: int, train: int, world: str, seed: int, **others: Any) -> Any:
        sample = SampleOptions(source=source, responses=responses, train=train, world=world, seed=seed)
        return command(sample=sample, **others)

    for option in (
        click.option("--seed", type=SEED, default=default.seed, show_default=True, help="Seed of the simulated world."),
        click.option("--world", type=click.Choice(sorted(WORLDS)), default=default.world, show_default=True),
        click.option(
            "--train",
            type=click.IntRange(min=1),
            default=default.train,
            show_default=True,
            help="Simulated responses that a model learns from where there is no --snapshot.",
        ),
        click.option(
            "--responses",
            type=click.IntRange(min=8),
            default=default.responses,
            show_default=True,
            help="Responses to sample.",
        ),
        click.option(
            "--traffic",
            "source",
            type=click.Choice(["simulate", "kafka"]),
            default=default.source,
            show_default=True,
            help="Traffic of a simulated world, or what a running system has served and labelled.",
        ),
        click.option("--snapshot", metavar="URL", help="Where snapshots of the recipe's model are: the newest counts."),
    ):
        gathered = option(gathered)
    return gathered
