"""`tiderank updates encodings`: in which form each tensor may travel, within a stated loss."""

import json
from collections import Counter
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

import click

from streams.config.recipe import Recipe
from streams.config.settings import named_recipe
from streams.errors import start_errors
from streams.options import Finite, json_option, recipe_option
from streams.tuning.columns import columns
from streams.tuning.sample_options import SampleOptions, sample_options

if TYPE_CHECKING:
    from ranker.tuning.encodings import EncodingResult
    from streams.tuning.sample import Sample


@click.command("encodings")
@recipe_option
@click.option(
    "--loss",
    type=Finite(min=0),
    default=2e-4,
    show_default=True,
    help="Largest relative loss of normalized entropy, of each tier.",
)
@sample_options
@json_option
def encodings(
    recipe: str | None,
    loss: float,
    snapshot: str | None,
    sample: SampleOptions,
    as_json: bool,
) -> None:
    """Measure each table and tensor in int8 and bf16, and choose what travels in which.

    Prints the lines of a recipe that say so. They change bytes and rounding, not the model: a trainer takes them up at
    its next start, replicas read any.
    """
    import torch

    from streams.tuning.sample import take_sample

    torch.set_num_threads(1)
    chosen = named_recipe(recipe)
    with start_errors():
        taken = take_sample(chosen, snapshot, sample, partial(click.echo, err=True))
        found = measure(chosen, taken, max_loss=loss)
    lines = recipe_lines(chosen, found)
    if as_json:
        click.echo(json.dumps(asdict(found) | {"recipe": lines}))
        return
    click.echo(to_text(found))
    click.echo(f"\n{lines}" if lines else "\nthe recipe says so already")


def measure(recipe: Recipe, sample: "Sample", *, max_loss: float) -> "EncodingResult":
    """Measures the encodings of the weights as they were before they were rounded for replicas."""
    from ranker.learning.learner import Learner
    from ranker.learning.state import restore
    from ranker.tuning.encodings import measure_encodings
    from ranker.tuning.held_out import HeldOut
    from streams.tuning.sample import COMPRESS

    learner = Learner(recipe.model, recipe.training.learner, COMPRESS)
    restore(learner, sample.weights.training)
    model = learner.copy()
    held_out = {tier: HeldOut(recipe.model, tier, model.tables, sample.held_out) for tier in model.tiers}
    return measure_encodings(model, held_out, max_loss=max_loss)


def recipe_lines(recipe: Recipe, found: "EncodingResult") -> str:
    """Returns as TOML what differs from the recipe's encodings; empty where nothing does."""
    from ranker.updates.encoding import row_encoding

    updates = recipe.training.learner.updates
    tables = {table.name for table in recipe.model.every_table}
    lines = []
    for name in dict.fromkeys(result.name for result in found.tensors):
        encoding = found.chosen.get(name, "float32")
        bare = row_encoding(name, updates) if name in tables else updates.tensors.get(name, updates.dense)
        if encoding != bare:
            lines.append(f'"{name}" = "{encoding}"')
    return "\n".join(["[training.learner.updates.tensors]", *lines]) if lines else ""


def to_text(found: "EncodingResult") -> str:
    rows = [("tensor", "", "saved B", "loss %", "± (95 %)", "")]
    rows += [
        (
            result.name,
            result.encoding,
            f"{result.saved:,}",
            f"{100 * result.change.loss:+.4f}",
            f"{100 * result.change.error:.4f}",
            "chosen" if found.chosen.get(result.name) == result.encoding else "",
        )
        for result in found.tensors
    ]
    counts = Counter(found.chosen.values())
    full = len({result.name for result in found.tensors}) - len(found.chosen)
    together = ", ".join(f"{tier} {100 * c.loss:+.4f} ± {100 * c.error:.4f} %" for tier, c in found.changes.items())
    return "\n".join(
        [
            columns(rows, left=2),
            f"{counts['int8']} int8, {counts['bfloat16']} bfloat16, {full} float32: {found.full_bytes:,} → "
            f"{found.chosen_bytes:,} bytes; loss together: {together}",
            *([f"taken back, as all together lost too much: {', '.join(found.dropped)}"] if found.dropped else []),
        ]
    )
