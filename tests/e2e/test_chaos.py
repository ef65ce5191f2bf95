"""One fault of each family of benchmarks/chaos.py: nothing is lost, doubled or different."""

import pytest

from benchmarks.chaos import run
from streams.local.kafka import why_not

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(why_not() is not None, reason=f"needs a broker that survives a kill: {why_not()}"),
]

SEED = 42
"""Seed of a draw with those members that once were faults (tests/benchmarks/test_schedule.py)."""


def test_a_fault_of_each_family_leaves_no_trace() -> None:
    assert run(None, seed=SEED, rate=8.0)
