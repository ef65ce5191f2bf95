"""Boosted trees over pairs (LightGBM), fitted anew to all examples so far, when those of `tiderank replay` are."""

# N pairs, S slots of ids, F numbers.

from pathlib import Path

import lightgbm
import numpy as np

from benchmarks.lab.peer.features import Pairs
from ranker.arrays import F32, I64
from streams.replay.rivals import FIRST_FITS, REFIT_EVERY

SETTINGS = {
    "objective": "binary",
    "learning_rate": 0.05,
    "num_leaves": 15,
    "min_data_in_leaf": 50,
    "num_threads": 1,
    "verbose": -1,
    "deterministic": True,
    "seed": 0,
}
ROUNDS = 200
_CODES = np.uint64(2**20)


def columns_of(pairs: Pairs, position_N: I64) -> F32:
    """[N, F + S + 1]: numbers, ids as the low bits of their keys, which trees split by value, and the place."""
    code_NS = (pairs.key_NS % _CODES).astype(np.float32)
    return np.concatenate([pairs.number_NF, code_NS, position_N[:, None].astype(np.float32)], axis=1)


class TreesTrainer:
    def __init__(self, prior: float) -> None:
        self._prior = prior
        self._columns: list[F32] = []
        self._clicks: list[F32] = []
        self._examples = 0
        self._fitted_at = 0
        self._trees: lightgbm.Booster | None = None

    def learn(self, pairs: Pairs, click_N: F32, position_N: I64) -> None:
        self._columns.append(columns_of(pairs, position_N))
        self._clicks.append(click_N)
        self._examples += len(click_N)
        due = next((n for n in FIRST_FITS if n > self._fitted_at), self._fitted_at + REFIT_EVERY)
        if self._examples >= due:
            self._fitted_at = self._examples
            data = lightgbm.Dataset(np.concatenate(self._columns), np.concatenate(self._clicks))
            self._trees = lightgbm.train(SETTINGS, data, ROUNDS)

    def predict(self, pairs: Pairs, position_N: I64) -> F32:
        return predicted(self._trees, pairs, position_N, self._prior)

    def save(self, path: Path) -> None:
        """Writes the trees, whole or not at all; nothing before the first fit."""
        if self._trees is not None:
            path.with_suffix(".new").write_text(self._trees.model_to_string())
            path.with_suffix(".new").replace(path)


class TreesScorer:
    """Saved trees; the prior where there are none yet."""

    def __init__(self, path: Path, prior: float) -> None:
        self._prior = prior
        self._trees = lightgbm.Booster(model_file=str(path)) if path.exists() else None

    def predict(self, pairs: Pairs) -> F32:
        """As if each were shown at the top: where a candidate will be shown, nobody knows yet."""
        return predicted(self._trees, pairs, np.zeros(len(pairs.number_NF), np.int64), self._prior)


def predicted(trees: lightgbm.Booster | None, pairs: Pairs, position_N: I64, prior: float) -> F32:
    if trees is None:
        return np.full(len(pairs.number_NF), prior, np.float32)
    p_N: F32 = np.asarray(trees.predict(columns_of(pairs, position_N), num_threads=1), np.float32)
    return p_N
