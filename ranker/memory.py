"""Whether a model fits into this machine: asked before any of it is allocated."""

import os

from ranker.config import ModelConfig, TierConfig
from ranker.keymap import map_bytes

_FLOAT = 4


def check_memory(config: ModelConfig) -> None:
    """Raises ValueError where the weights alone would not fit into the machine's memory.

    A trainer needs a few times as much: of what is refused here nothing could be served either.
    """
    rows = [(t, _FLOAT * config.width * (t.rows + t.tail_rows) + map_bytes(t.rows)) for t in config.tables]
    dense = [(t, _FLOAT * tier_weights(t, t.width or config.width)) for t in config.tiers]
    parts = {f"table {t.name!r}": size for t, size in rows} | {f"tier {t.name!r}": size for t, size in dense}
    needed, there = sum(parts.values()), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        largest = max(parts, key=lambda part: parts[part])
        raise ValueError(
            f"the weights of model {config.name!r} must fit into this machine's {_gib(there)}, they need about "
            f"{_gib(needed)}, {_gib(parts[largest])} of them for {largest}; lower its rows or sizes"
        )


def tier_weights(tier: TierConfig, width: int) -> int:
    """Dense weights of the tier to within a factor of two: of its blocks' MLPs, its heads and its encoder."""
    tokens = tier.user_tokens + tier.fm_tokens + tier.compressed_tokens
    mlps = (tier.layers + 1) * tokens * (tier.fm_rank + width) * tier.hidden  # the heads are like one layer more
    return mlps + tier.encoder_layers * width * (4 * width + 2 * tier.hidden)


def _gib(size: int) -> str:
    return f"{size / 2**30:.3g} GiB"
