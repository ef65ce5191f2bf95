"""Whether a model fits into this machine: asked before any of it is allocated."""

import os
from pathlib import Path

from ranker.config import ModelConfig, TierConfig
from ranker.inputs.keymap import map_bytes

_FLOAT, _KEY = 4, 8


def check_memory(config: ModelConfig) -> None:
    """Raises ValueError where the weights alone would not fit into the memory that this process may use.

    A trainer needs a few times as much: of what is refused here nothing could be served either.
    """
    rows = [
        (t, _FLOAT * config.row_width(t.name) * (t.rows + t.tail_rows) + map_bytes(t.rows)) for t in config.every_table
    ]
    dense = [(t, _FLOAT * tier_weights(t, t.width or config.width)) for t in config.tiers]
    parts = {f"table {t.name!r}": size for t, size in rows} | {f"tier {t.name!r}": size for t, size in dense}
    parts["the catalogue"] = (
        _KEY * len(config.catalogued) * sum(t.rows for t in config.tables if t.name == config.item_table)
    )
    needed, (there, words) = sum(parts.values()), usable_memory()
    if needed > there:
        largest = max(parts, key=lambda part: parts[part])
        raise ValueError(
            f"the weights of model {config.name!r} must fit into this machine's {words}, they need about "
            f"{_gib(needed)}, {_gib(parts[largest])} of them for {largest}; lower its rows or sizes"
        )


def usable_memory() -> tuple[int, str]:
    """Bytes, and in words: the machine's memory, or what its control group leaves a container of it."""
    machine, limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), group_limit()
    if limit is not None and limit < machine:
        return limit, f"{_gib(limit)} (the limit of its control group)"
    return machine, _gib(machine)


def group_limit(own: Path = Path("/proc/self/cgroup"), tree: Path = Path("/sys/fs/cgroup")) -> int | None:
    """The least limit, in bytes, of the control groups that this process is in; None where none has one.

    own: lists them, v2 as `0::PATH`, v1 as `N:memory:PATH`. A container may see the host's path there, and its own
    group as the tree's root: so all folders on the way down are asked.
    """
    limits = []
    for line in own.read_text().splitlines() if own.is_file() else []:
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        if (number, controllers) == ("0", ""):
            root, name = tree, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = tree / "memory", "memory.limit_in_bytes"
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        limits += [_limit(root.joinpath(*parts[:depth], name)) for depth in range(len(parts) + 1)]
    return min((limit for limit in limits if limit is not None), default=None)


def _limit(file: Path) -> int | None:
    """Also None for `max`, which is none."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def tier_weights(tier: TierConfig, width: int) -> int:
    """Dense weights of the tier to within a factor of two: of its blocks' MLPs, its heads and its encoder."""
    tokens = tier.user_tokens + tier.fm_tokens + tier.compressed_tokens
    mlps = (tier.layers + 1) * tokens * (tier.fm_rank + width) * tier.hidden  # the heads are like one layer more
    return mlps + tier.encoder_layers * width * (4 * width + 2 * tier.hidden)


def _gib(size: int) -> str:
    return f"{size / 2**30:.3g} GiB"
