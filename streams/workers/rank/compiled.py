"""Compiled graphs, put to use by a worker that serves."""

import logging
from pathlib import Path

from ranker.compiled.folder import graph_file
from ranker.compiled.load import CompiledTier
from ranker.engine import Engine
from streams.runtime import metrics as metric

log = logging.getLogger(__name__)


def use_compiled_graphs(engine: Engine, folder: Path) -> None:
    """Takes the graph of each tier that the folder has for this model and processor; the log says which tiers have one.

    After the precision is chosen, as a graph is of layers in the precision that they have.
    """
    eager = []
    for tier in engine.config.tiers:
        path = graph_file(folder, engine.config.digest, tier.name, engine.precision.get(tier.name, {}))
        used = path.exists() and _use(engine, tier.name, path)
        metric.COMPILED.labels(tier.name).set(used)
        if not used:
            eager.append(tier.name)
    if not eager:
        log.info("compiled graphs: all tiers, from %s", folder)
    elif len(eager) < len(engine.config.tiers):
        log.warning("compiled graphs: none for %s; make them: tiderank compile", ", ".join(eager))
    else:
        log.info("compiled graphs: none in %s, tiers run operator by operator; make them: tiderank compile", folder)


def _use(engine: Engine, tier: str, path: Path) -> bool:
    try:
        engine.use_compiled(tier, CompiledTier(engine.graph(tier), path))
    except (ValueError, RuntimeError, OSError) as error:
        log.warning("compiled graphs: %s cannot be used: %s", path, error)
        return False
    return True
