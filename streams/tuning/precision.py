"""`tiderank precision`: which layers this machine serves faster in bf16 or int8, within a stated loss."""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streams.config.recipe import Recipe
from streams.config.settings import named_recipe
from streams.errors import start_errors
from streams.machine import cpu_info, this_machine
from streams.options import Finite, json_option, recipe_option
from streams.tuning.columns import columns
from streams.tuning.sample_options import SampleOptions, sample_options

if TYPE_CHECKING:
    from ranker.tuning.precision import LayerResult, Precision, TierResult
    from streams.tuning.sample import Sample


@click.command("precision")
@recipe_option
@click.option("--tier", "tiers", multiple=True, help="[default: all]")
@click.option(
    "--loss", type=Finite(min=0), default=2e-4, show_default=True, help="Largest relative loss of normalized entropy."
)
@click.option("--repeats", type=click.IntRange(min=4), default=15, show_default=True)
@sample_options
@json_option
def precision_command(
    recipe: str | None,
    tiers: tuple[str, ...],
    loss: float,
    repeats: int,
    snapshot: str | None,
    sample: SampleOptions,
    as_json: bool,
) -> None:
    """Measure each layer in bf16 and int8 on this machine, and choose those that are worth it, or none.

    With --snapshot the choice is written beside the snapshots, as precision.json, and used by ranking workers on this
    kind of CPU from their next start on.
    """
    import torch

    from ranker.tuning.precision import write_precision
    from streams.tuning.sample import take_sample

    torch.set_num_threads(1)
    where, say = this_machine(), partial(click.echo, err=True)
    chosen = named_recipe(recipe)
    names = tiers or tuple(tier.name for tier in chosen.model.tiers)
    with start_errors():
        for name in names:
            chosen.model.tier(name)
        taken = take_sample(chosen, snapshot, sample, say)
        results = []
        for name in names:
            say(f"tier {name}: each layer in each precision")
            results.append(measure_tier(chosen, name, taken, max_loss=loss, repeats=repeats))
    root = taken.weights.root
    written = None if root is None else write_precision(root, precision_of(chosen, results, max_loss=loss))
    if as_json:
        click.echo(json.dumps({"where": where, "written": written, "tiers": [asdict(r) for r in results]}))
        return
    click.echo(where)
    for result in results:
        click.echo(f"\n{to_text(result)}")
    click.echo(f"\nwritten: {written}" if written else "\nnothing written: name the --snapshot that it is for")


def measure_tier(recipe: Recipe, name: str, sample: "Sample", *, max_loss: float, repeats: int) -> "TierResult":
    """Measures a tier with the published weights, which are what is served."""
    from ranker.model.tier import Tier
    from ranker.tuning.held_out import HeldOut
    from ranker.tuning.precision import measure_precision
    from streams.tuning.sample import COMPRESS

    model, image = recipe.model, sample.weights.image
    tier = Tier(model, model.tier(name), compress=COMPRESS)
    tier.load_state_dict({key: image.dense[f"{name}/{key}"] for key in tier.state_dict()})
    held_out = HeldOut(model, name, image.tables, sample.held_out)
    return measure_precision(model, tier, image.tables, held_out, sample.requests, max_loss=max_loss, repeats=repeats)


def precision_of(recipe: Recipe, results: "list[TierResult]", *, max_loss: float) -> "Precision":
    import torch

    from ranker.tuning.precision import Precision

    cpu, features = cpu_info(Path("/proc/cpuinfo"))
    return Precision(
        digest=recipe.model.digest,
        cpu=cpu,
        features=tuple(features),
        torch=str(torch.__version__),
        max_loss=max_loss,
        layers={result.tier: result.chosen for result in results if result.chosen},
    )


def to_text(result: "TierResult") -> str:
    """A line for each layer and precision, then what was chosen."""
    from ranker.tuning.precision import TOP_K

    lines: list[tuple[Any, ...]] = [("layer", "", "fp32 µs", "µs", "saved", "loss %", "± (95 %)", "")]
    lines += [_line(layer, result) for layer in result.layers]
    saved = 1 - result.low_ms / result.full_ms if result.chosen else 0.0
    together = (
        f"{len(result.chosen)} layers in low precision: {result.full_ms:.2f} → {result.low_ms:.2f} ms a request "
        f"({saved:.1%} saved), loss {100 * result.change.loss:+.4f} % of normalized entropy {result.entropy:.5f}, top "
        f"{TOP_K} overlap {result.overlap:.4f}; an update costs {result.refresh_ms:.2f} ms more"
    )
    none = f"all in float32: nothing is gained ({result.full_ms:.2f} ms a request)"
    return "\n".join(
        [
            f"tier {result.tier}",
            columns(lines, left=2),
            together if result.chosen else none,
            *(f"not chosen, as it lost too much together or saved nothing: {len(d)} layers" for d in result.dropped),
        ]
    )


def _line(layer: "LayerResult", result: "TierResult") -> tuple[str, ...]:
    change = layer.change
    return (
        layer.path,
        layer.kind,
        f"{layer.full_us:.1f}",
        f"{layer.low_us:.1f}",
        f"{1 - layer.low_us / layer.full_us:+.0%}",
        "" if change is None else f"{100 * change.loss:+.4f}",
        "" if change is None else f"{100 * change.error:.4f}",
        "chosen" if result.chosen.get(layer.path) == layer.kind else "",
    )
