"""Ten of the faults of benchmarks/chaos.py: nothing is lost, doubled or different."""

import pytest

from benchmarks.chaos import run
from streams.local.kafka import why_not

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(why_not() is not None, reason=f"needs a broker that survives a kill: {why_not()}"),
]

SEED = 835
"""Of a deck that begins with the broker, a slow disk, and the middle of an update and of a snapshot."""


def test_ten_faults_leave_no_trace() -> None:
    assert run(faults=10, seed=SEED, rate=8.0)
