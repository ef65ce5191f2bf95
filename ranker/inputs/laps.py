"""A hook that is told when a phase of work ends, so that whoever runs it can count where its time goes."""

from collections.abc import Callable

Lap = Callable[[str], None]
"""Called with the name of the phase that ends now."""


def no_lap(phase: str) -> None:
    """Counts nothing."""
