"""The precision that was measured for this machine, put to use by a worker that serves."""

import logging
from pathlib import Path

from ranker.engine import Engine
from ranker.tuning.precision import read_precision
from streams.machine import cpu_info

log = logging.getLogger(__name__)


def use_measured_precision(engine: Engine, snapshots: str) -> None:
    """Takes the precision from the file beside the snapshots, if there is one; a file of another model or CPU is left,
    and the log says so."""
    try:
        precision = read_precision(snapshots)
    except ValueError as error:
        log.warning("precision: all in float32, the file beside %s cannot be read: %s", snapshots, error)
        return
    if precision is None:
        return
    cpu, features = cpu_info(Path("/proc/cpuinfo"))
    reason = precision.refusal(digest=engine.config.digest, cpu=cpu, features=features)
    if reason is not None:
        log.warning("precision: all in float32, %s; measure here: tiderank precision", reason)
        return
    engine.use_precision(precision.layers)
    log.info("precision: %s", {tier: len(layers) for tier, layers in precision.layers.items()} or "all in float32")
