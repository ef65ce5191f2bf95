"""Ten of the faults of benchmarks/chaos.py: nothing is lost, doubled or different."""

import pytest

from benchmarks.chaos import run
from streams.local.kafka import why_not

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(why_not() is not None, reason=f"needs a broker that survives a kill: {why_not()}"),
]

KINDS = ("kill", "halt", "die", "slow redis")
"""Processes that stop and come back with what they had. What makes Redis or the broker forget is for the benchmark: a
Redis that comes back empty has no open reward windows, and rewards does not read their decisions again."""
SEED = 29
"""Of a draw with the broker, a slow disk, and the middle of an update and of a snapshot."""


def test_ten_faults_leave_no_trace() -> None:
    assert run(10, seed=SEED, rate=8.0, kinds=KINDS)
