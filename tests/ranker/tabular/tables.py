"""Small tables with something to learn in them, for the tests."""

import numpy as np
import pyarrow as pa


def clicks(rows: int = 3000, *, seed: int = 0) -> pa.Table:
    """Users like or dislike a genre each; price matters in the middle of its range alone."""
    rng = np.random.default_rng(seed)
    user, genre, price = rng.integers(0, 12, rows), rng.integers(0, 4, rows), rng.normal(20, 5, rows)
    taste = np.random.default_rng(7).normal(0, 1.5, (12, 4))
    logit = taste[user, genre] + 2 * (np.abs(price - 20) < 4) - 1
    return pa.table(
        {
            "user": [f"u{u}" for u in user],
            "genre": pa.array([f"g{g}" for g in genre]).dictionary_encode(),
            "price": price,
            "click": (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(int),
        }
    )


def exclusive_or(rows: int = 3000, *, seed: int = 0) -> pa.Table:
    """A click is likely (.9, else .1) where one of two ids is odd and the other even; neither says anything alone."""
    rng = np.random.default_rng(seed)
    left, right = rng.integers(0, 12, (2, rows))
    click = rng.random(rows) < np.where((left + right) % 2, 0.9, 0.1)
    return pa.table({"left": [f"l{i}" for i in left], "right": [f"r{i}" for i in right], "click": click.astype(int)})
