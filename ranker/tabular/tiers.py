"""Sizes of the tier that learns a table: what `tiderank fit --tier` chooses from."""

from typing import Final

from ranker.config import TierConfig


def _tier(name: str, *, layers: int, tokens: int, hidden: int) -> TierConfig:
    """A table has no log, and so no attention over one (`heads`); its request's side is one learned token."""
    return TierConfig(
        name=name,
        layers=layers,
        log_length=0,
        user_tokens=2,
        fm_tokens=tokens,
        compressed_tokens=tokens,
        fm_rank=tokens,
        hidden=hidden,
        heads=1,
        dropout=0.03,
    )


TIERS: Final = {
    tier.name: tier
    for tier in (
        _tier("light", layers=1, tokens=4, hidden=32),
        _tier("medium", layers=1, tokens=8, hidden=64),
        _tier("heavy", layers=2, tokens=16, hidden=128),
    )
}
"""Tiers by name, cheapest first."""
DEFAULT_TIER: Final = "medium"
