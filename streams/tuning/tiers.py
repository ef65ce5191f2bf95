"""`tiderank tiers`: what each tier is made of and what it costs, in one table."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ranker.config import ModelConfig
from streams.config.settings import named_recipe
from streams.errors import start_errors
from streams.machine import this_machine
from streams.options import json_option, recipe_option
from streams.tuning.columns import columns

if TYPE_CHECKING:
    from ranker.tuning.cost import TierCost

_HEADER = (
    "tier",
    "form",
    "layers",
    "width",
    "log",
    "parameters",
    "a request",
    "a candidate",
    "equivalent",
    "executed",
    "median ms",
    "p90 ms",
)


@click.command("tiers")
@recipe_option
@click.option("--candidates", type=click.IntRange(1, 2000), default=100, show_default=True)
@click.option("--log-length", type=click.IntRange(min=0), help="Events in the log.  [default: as many as a tier reads]")
@click.option("--repeats", type=click.IntRange(min=1), default=20, show_default=True, help="Requests timed a tier.")
@json_option
def tiers_command(recipe: str | None, candidates: int, log_length: int | None, repeats: int, as_json: bool) -> None:
    """Compare the tiers: parameters, operations by running them, and the time of a request on this machine."""
    import torch

    from kernels.linear_compress import bind
    from ranker.inputs.tables import PlainTables
    from ranker.tuning.cost import measure_tiers, table_bytes

    torch.set_num_threads(1)
    where = this_machine()
    model = named_recipe(recipe).model
    with start_errors():
        costs = measure_tiers(model, bind("decomposed"), candidates=candidates, log_length=log_length, repeats=repeats)
    embeddings = table_bytes(PlainTables(model))
    if as_json:
        tiers = [_as_dict(cost, model, candidates) for cost in costs]
        click.echo(json.dumps({"where": where, "candidates": candidates, "table_bytes": embeddings, "tiers": tiers}))
        return
    click.echo(f"{where}\n{columns([_HEADER, *(_line(cost, model, candidates) for cost in costs)], left=2)}")
    click.echo(
        f"\nThe tiers share {embeddings / 2**20:.1f} MiB of embeddings. Operations, of matrix products: once a "
        f"request, for each\ncandidate; equivalent: of the model that a candidate is scored by; executed: a candidate, "
        f"with {candidates} in a request.\nms: CPU time of one thread for such a request, features to probabilities."
    )


def _line(cost: "TierCost", model: ModelConfig, candidates: int) -> tuple[str, ...]:
    tier, operations = model.tier(cost.tier), cost.operations
    counts = (
        operations.request,
        operations.candidate,
        operations.model_equivalent,
        operations.executed(candidates),
    )
    return (
        tier.name,
        tier.form,
        str(tier.layers),
        str(tier.width or model.width),
        str(tier.log_length),
        f"{cost.parameters:,}",
        *(f"{count:,.0f}" for count in counts),
        f"{cost.median_ms:.2f}",
        f"{cost.p90_ms:.2f}",
    )


def _as_dict(cost: "TierCost", model: ModelConfig, candidates: int) -> dict[str, Any]:
    tier, operations = model.tier(cost.tier), cost.operations
    return asdict(cost) | {
        "form": tier.form,
        "layers": tier.layers,
        "width": tier.width or model.width,
        "log_length": tier.log_length,
        "operations": asdict(operations)
        | {"model_equivalent": operations.model_equivalent, "executed": operations.executed(candidates)},
    }
