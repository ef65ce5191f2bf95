"""`tiderank compile`: each tier as a graph for this processor, by which ranking workers then score."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streams.config.recipe import Recipe
from streams.config.settings import compiled_folder, named_recipe, snapshots_url
from streams.errors import StartError, start_errors
from streams.machine import this_machine
from streams.options import json_option, recipe_option
from streams.tuning.columns import columns

if TYPE_CHECKING:
    from ranker.engine import Engine

_CANDIDATES = 100


@dataclass(frozen=True, slots=True)
class Built:
    """One tier's graph, and what it is worth: CPU milliseconds of a request, features to probabilities."""

    tier: str
    path: str
    seconds: float | None
    """Seconds that building took; None where it was there."""
    operators_ms: float
    compiled_ms: float
    difference: float
    """Largest difference of a probability."""


@click.command("compile")
@recipe_option
@click.option("--again", is_flag=True, help="Build what is there already, too.")
@json_option
def compile_command(recipe: str | None, again: bool, as_json: bool) -> None:
    """Compile each tier for this processor; ranking workers use the graphs from their next start on.

    Needs a C++ compiler here, and none where the files are used: they lie in TIDERANK_COMPILED, by default in
    ~/.cache/tiderank/compiled, and may be copied to machines with the same processor, torch and tiderank. Weights are
    not in them: what is learned is served as before. Half a minute a tier.
    """
    import torch

    torch.set_num_threads(1)
    where, chosen, folder = this_machine(), named_recipe(recipe), compiled_folder()
    with start_errors():
        engine = _engine(chosen)
    built = []
    for tier in chosen.model.tiers:
        built.append(build_tier(engine, tier.name, folder, again=again))
        if not as_json:
            click.echo(f"tier {tier.name}: {built[-1].path}", err=True)
    if as_json:
        click.echo(json.dumps({"where": where, "tiers": [asdict(b) for b in built]}))
        return
    head = ("tier", "built in", "by operators, ms", "compiled, ms", "times as fast", "largest difference")
    rows = [
        (
            b.tier,
            "was there" if b.seconds is None else f"{b.seconds:.0f} s",
            f"{b.operators_ms:.2f}",
            f"{b.compiled_ms:.2f}",
            f"{b.operators_ms / b.compiled_ms:.1f}",
            f"{b.difference:.0e}",
        )
        for b in built
    ]
    click.echo(f"{where}\n{columns([head, *rows], left=1)}")
    click.echo(f"\nms: CPU time of a request of {_CANDIDATES} candidates with a full log, features to probabilities.")


def _engine(recipe: Recipe) -> "Engine":
    """With the precision that ranking workers would use, of whose layers the graphs are."""
    from kernels.linear_compress import bind
    from ranker.engine import Engine
    from streams.config.low_precision import use_measured_precision

    engine = Engine(recipe.model, bind("decomposed"))
    use_measured_precision(engine, snapshots_url())
    return engine


def build_tier(engine: "Engine", tier: str, folder: Path, *, again: bool = False) -> Built:
    """Builds the graph where it is missing, then scores with it and without.

    Raises StartError without a compiler, or where the graph does not agree with the tier."""
    import numpy as np

    from ranker.compiled.build import build, compiler
    from ranker.compiled.folder import graph_file
    from ranker.compiled.load import CompiledTier
    from ranker.engine import predict
    from ranker.inputs.features import Featurizer
    from ranker.tuning.cost import cpu_times, made_up_request

    path = graph_file(folder, engine.config.digest, tier, engine.precision.get(tier, {}))
    featurizer, tables, graph = Featurizer(engine.config), engine.image.tables, engine.graph(tier)
    length = engine.config.tier(tier).log_length
    request = made_up_request(_CANDIDATES, max(length, 1))
    keyed = featurizer.keys([request], length)
    inputs = graph.inputs(keyed)
    if inputs is None:
        raise StartError(f"a graph takes two log events or more, and tier {tier!r} counts {length}: nothing to compile")
    seconds = None
    if again or not path.exists():
        if compiler() is None:
            raise StartError("compiling needs a C++ compiler, and none is here: install g++, or set CXX to another")
        began = time.monotonic()
        build(graph, inputs[0], path)
        seconds = time.monotonic() - began
    compiled, tiers = CompiledTier(graph, path), {tier: graph.tier}

    def by_operators() -> np.ndarray:
        return np.stack(predict(featurizer, tiers, tables, tier, featurizer.keys([request], length)))

    def by_graph() -> np.ndarray:
        found_KN = compiled.predict(featurizer.keys([request], length, crossed=False))
        assert found_KN is not None  # of a fresh model no key has a row to be unsure of
        return found_KN[:2]

    times = cpu_times({"operators": by_operators, "compiled": by_graph}, 30)
    operators_ms, compiled_ms = (1000 * float(np.median(seconds)) for seconds in times.values())
    difference = float(np.abs(by_operators() - by_graph()).max())
    return Built(tier, str(path), seconds, operators_ms, compiled_ms, difference)
