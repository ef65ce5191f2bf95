"""`tiderank prune`: a tier without the hidden units that contribute least, as a new model to switch to."""

import json
import math
import time
import tomllib
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ranker.tuning.pruning_options import PruningOptions
from streams.config.load import from_table, to_table
from streams.config.recipe import Recipe
from streams.config.settings import named_recipe
from streams.config.text import toml_value
from streams.errors import StartError, start_errors
from streams.options import Finite, json_option, recipe_option
from streams.tuning.columns import columns
from streams.tuning.sample_options import SampleOptions, sample_options

if TYPE_CHECKING:
    from ranker.model.tier import Tier
    from ranker.snapshots.snapshot import Snapshot
    from ranker.tuning.held_out import Change
    from ranker.tuning.pruning import Pruning, Round
    from streams.tuning.sample import Sample, Weights

_DEFAULT = PruningOptions()


@click.command("prune")
@recipe_option
@click.option("--tier", help="[default: the heaviest]")
@click.option(
    "--loss",
    type=Finite(min=0),
    default=_DEFAULT.max_loss,
    show_default=True,
    help="Largest relative loss of normalized entropy.",
)
@click.option("--share", type=Finite(0, 1, min_open=True), help="Stop when so many operations are gone.")
@click.option("--step", type=Finite(0, 1, min_open=True), default=_DEFAULT.step, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Write a snapshot and recipe.toml here.")
@sample_options
@json_option
def prune_command(
    recipe: str | None,
    tier: str | None,
    loss: float,
    share: float | None,
    step: float,
    out: Path | None,
    snapshot: str | None,
    sample: SampleOptions,
    as_json: bool,
) -> None:
    """Remove a tier's hidden units that contribute least, until it would lose too much normalized entropy.

    What is left is another model: run its workers with the recipe.toml and the snapshots in --out, beside the old ones.
    """
    import torch

    torch.set_num_threads(1)
    chosen = named_recipe(recipe)
    name = tier or chosen.model.tiers[-1].name
    options = PruningOptions(max_loss=loss, target=share or 1.0, step=step)
    if out is not None:  # what cannot be written is said before the work
        recipe_toml(chosen)
        out.mkdir(parents=True, exist_ok=True)
    with start_errors():
        taken, pruning = prune_sampled(chosen, name, snapshot, sample, options, say=partial(click.echo, err=True))
    needed = responses_needed(pruning.change, loss, len(taken.measured) + len(taken.held_out))
    written = None if out is None else write_pruned(chosen, taken.weights, pruning, out)
    if as_json:
        click.echo(json.dumps(as_dict(pruning, loss, needed, written)))
        return
    click.echo(to_text(pruning))
    if needed is not None:
        click.echo(undecided(pruning.change, loss, needed))
    if written is not None:
        click.echo(f"\nwritten: {written.url}\nwritten: {out}/recipe.toml (--recipe; TIDERANK_SNAPSHOTS={out})")


def prune_sampled(
    recipe: Recipe,
    tier: str,
    snapshots: str | None,
    sample: SampleOptions,
    options: PruningOptions,
    *,
    say: Callable[[str], None],
) -> "tuple[Sample, Pruning]":
    """Returns the sample that it was judged by, with the weights before pruning, and what is left of the tier."""
    from ranker.tuning.held_out import HeldOut
    from ranker.tuning.pruning import prune
    from streams.tuning.sample import take_sample

    model = recipe.model
    model.tier(tier)  # raises before the sampling rather than after it
    taken = take_sample(recipe, snapshots, sample, say)
    tables = taken.weights.image.tables
    measured, held_out = (HeldOut(model, tier, tables, some) for some in (taken.measured, taken.held_out))

    def tell(done: "Round") -> None:
        left, loss, error = (100 * part for part in (done.operations, done.change.loss, done.change.error))
        end = "" if done.taken else ", taken back"
        say(f"tier {tier}: {left:.1f} % of the linear operations left, loss {loss:+.4f} ± {error:.4f} %{end}")

    pruning = prune(model, trained_tier(recipe, tier, taken.weights), measured, held_out, options, on_round=tell)
    return taken, pruning


def responses_needed(change: "Change", max_loss: float, sampled: int) -> int | None:
    """Returns how many responses would show the loss to be within the budget; None where the `sampled` ones do, or none
    would."""
    growth = change.sample_growth(max_loss)
    return None if growth <= 1 or math.isinf(growth) else math.ceil(growth * sampled)


def trained_tier(recipe: Recipe, tier: str, weights: "Weights") -> "Tier":
    """Returns the tier with the trainer's weights, not the published ones: the pruned model learns on from them."""
    from ranker.model.tier import Tier
    from streams.tuning.sample import COMPRESS

    module = Tier(recipe.model, recipe.model.tier(tier), compress=COMPRESS)
    module.load_state_dict({key: weights.training[f"dense/{tier}/{key}"] for key in module.state_dict()})
    return module


def write_pruned(recipe: Recipe, weights: "Weights", pruning: "Pruning", out: Path) -> "Snapshot":
    """Writes a snapshot of the pruned model, at the old one's position, and its recipe into `out`, which must be
    there."""
    from ranker.snapshots.snapshot import write_snapshot
    from ranker.tuning.pruning import pruned_model, pruned_state
    from ranker.updates.encoding import encode_dense
    from ranker.updates.image import new_image
    from streams.tuning.sample import COMPRESS

    model = pruned_model(recipe.model, pruning.tier.config)
    state = pruned_state(weights.training, recipe.model, pruning, COMPRESS)
    updates = recipe.training.learner.updates
    name = pruning.tier.config.name
    old, image = weights.image, new_image(model, COMPRESS)
    assert old.position is not None
    dense = {
        f"dense/{name}/{key}": encode_dense(f"{name}/{key}", t, updates).decode()
        for key, t in pruning.tier.state_dict().items()
    }
    image.load(old.tensors() | dense, old.position, watermark_ms=old.watermark_ms, offsets=old.offsets)
    (out / "recipe.toml").write_text(recipe_toml(replace(recipe, name=f"{recipe.name}-pruned", model=model)))
    created_ms = time.time_ns() // 1_000_000
    return write_snapshot(str(out), image, state, digest=model.digest, created_ms=created_ms)


def recipe_toml(recipe: Recipe) -> str:
    """Returns the text of a file that load_recipe reads as this recipe."""
    text = "\n".join(f"{name} = {toml_value(value)}" for name, value in to_table(recipe).items()) + "\n"
    if from_table(tomllib.loads(text)) != recipe:
        raise StartError(f"recipe {recipe.name!r} cannot be written as TOML: it has no way to say None")
    return text


def to_text(pruning: "Pruning") -> str:
    """The rounds, then what each module lost."""
    lines = [("round", "operations left", "loss %", "± (95 %)", "")]
    for number, r in enumerate(pruning.rounds):
        loss, error = f"{100 * r.change.loss:+.4f}", f"{100 * r.change.error:.4f}"
        lines.append((str(number), f"{r.operations:.1%}", loss, error, "" if r.taken else "taken back"))
    shapes = [f"  {p.mlp}: {p.hidden}" for p in pruning.tier.config.pruned]
    return "\n".join(
        [
            columns(lines),
            "",
            f"tier {pruning.tier.config.name}: {1 - pruning.operations:.1%} of the linear operations gone, normalized "
            f"entropy {pruning.entropy:.5f} {100 * pruning.change.loss:+.4f} %",
            "hidden units left:",
            *(shapes or ["  all of them"]),
        ]
    )


def undecided(change: "Change", max_loss: float, needed: int) -> str:
    low, high = (100 * end for end in change.interval)
    return (
        f"the 95 % interval of the loss, {low:+.4f} to {high:+.4f} %, reaches beyond the budget of "
        f"{100 * max_loss:.4f} %: about {needed} --responses would decide"
    )


def as_dict(pruning: "Pruning", max_loss: float, needed: int | None, written: "Snapshot | None") -> dict[str, Any]:
    return {
        "tier": pruning.tier.config.name,
        "operations_gone": 1 - pruning.operations,
        "normalized_entropy": pruning.entropy,
        "loss": asdict(pruning.change),
        "max_loss": max_loss,
        "interval": pruning.change.interval,
        "responses_needed": needed,
        "rounds": [asdict(r) for r in pruning.rounds],
        "pruned": {p.mlp: p.hidden for p in pruning.tier.config.pruned},
        "snapshot": None if written is None else written.url,
    }
