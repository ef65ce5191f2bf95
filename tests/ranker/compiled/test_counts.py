"""What a log says, counted by operators of a graph, beside count_evidence."""

import numpy as np
import torch

from ranker.compiled.counts import _BITS, LogCounts
from ranker.inputs.evidence import KnownLogs, Moments, count_evidence


def both(candidate_SN: np.ndarray, event_SE: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray, bool]:
    """Counts [N, S, C] by numpy and by the graph's operators, and whether those are unsure."""
    rng, N = np.random.default_rng(seed), candidate_SN.shape[1]
    S, E = len(event_SE), event_SE.shape[1]
    known_SE, action_E = rng.random((S, E)) < 0.9, rng.integers(0, 32, (E,))
    action_E[: E // 2] = rng.integers(0, 4, (E // 2,))
    age_E = rng.uniform(0, 14, (E,)).astype(np.float32)
    logs = KnownLogs(np.array([E]), action_E, age_E, {str(s): (event_SE[s], known_SE[s]) for s in range(S)})
    candidates = {str(s): candidate_SN[s] for s in range(S)}
    [expected] = count_evidence(
        logs, candidates, Moments.now(logs.lengths_B), np.zeros(N, np.int64), logs.lengths_B[None]
    )
    given = (candidate_SN.view(np.int64), event_SE.view(np.int64), known_SE, action_E, age_E)
    found, unsure = LogCounts()(*map(torch.from_numpy, given))
    return expected, found.numpy(), bool(unsure)


def test_counts_agree() -> None:
    rng = np.random.default_rng(1)
    for N, E, distinct in ((2, 2, 1), (100, 512, 40), (7, 2_048, 3), (300, 64, 5_000)):
        pool = rng.integers(1, 2**64, (4, distinct), dtype=np.uint64)  # other values in each slot, as their salts make
        candidate_SN = np.stack([row[rng.integers(0, distinct, N)] for row in pool])
        event_SE = np.stack([row[rng.integers(0, distinct, E)] for row in pool])
        event_SE[0], candidate_SN[0] = 0, 0  # of the slot that has the same value everywhere
        expected, found, unsure = both(candidate_SN, event_SE, N)
        assert not unsure
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_values_that_share_a_place_are_told_apart_in_the_next_table() -> None:
    """The first table knows the highest bits, the second those behind them: values that have both alike, and only
    those, are left to the third."""
    rng = np.random.default_rng(2)
    low = rng.permutation(2**14)[:60].astype(np.uint64) << np.uint64(64 - 32 - _BITS[2])
    shared = np.uint64(0xABCD_1234) << np.uint64(32)
    candidate_SN = (shared | low)[None, :]
    event_SE = candidate_SN[:, rng.integers(0, 60, 400)].copy()
    expected, found, unsure = both(candidate_SN, event_SE)
    # In each table one of those that share a place is found; in the third the others are apart.
    assert not unsure
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_values_that_share_their_places_in_all_tables_are_a_doubt() -> None:
    one = np.uint64(0xABCD_1234_5678_0000)
    near = one + np.arange(1, 5, dtype=np.uint64)  # alike but for bits that no table looks at
    assert both(near[None, :3], np.repeat(one, 10)[None])[2] is False, "three tables have three places"
    assert both(near[None, :], np.repeat(one, 10)[None])[2] is True
