"""The peers of benchmarks/peer.py: features are what the log says, and what is served is what was trained."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ranker.inputs.features import Featurizer
from ranker.inputs.hashing import hash64
from ranker.inputs.requests import LOG_DTYPE, ScoringRequest
from ranker.recipes import three_tiers

pytest.importorskip("onnxruntime", reason="needs the extra `peer`")
pytest.importorskip("lightgbm", reason="needs the extra `peer`")

from benchmarks.lab.peer.dcn import PARAMETERS, DcnScorer, DcnTrainer
from benchmarks.lab.peer.features import PairFeatures, Pairs
from benchmarks.lab.peer.trees import TreesScorer, TreesTrainer
from streams.replay.rivals import FIRST_FITS

MODEL = three_tiers()
ITEMS = [f"i{n}" for n in range(6)]


def asked(items: list[str], log: list[tuple[str, int]]) -> ScoringRequest:
    events = np.zeros(len(log), LOG_DTYPE)
    events["item"], events["action"] = [hash64(item) for item, _ in log], [action for _, action in log]
    features = [{"category": f"c{int(item[1:]) % 2}", "theme": f"t{int(item[1:]) % 3}"} for item in items]
    return ScoringRequest(user="u", event_ms=10**12, items=items, item_features=features, log=events)


def pairs_of(features: PairFeatures, *requests: ScoringRequest) -> Pairs:
    return features.of(Featurizer(MODEL).keys(requests, 0), [r.log for r in requests])


def test_counts_are_those_of_the_log_event_by_event() -> None:
    features = PairFeatures(MODEL)
    pairs_of(features, asked(ITEMS, []))  # from here on it knows what the items are
    log = [("i0", 1), ("i0", 2), ("i2", 1), ("i4", 1), ("i3", 1), ("i3", 3), ("unknown", 1)]
    found = pairs_of(features, asked(["i1"], []), asked(["i0", "i1"], log)).number_NF
    shown, clicked = np.array([[0, 0, 0], [1, 3, 2], [0, 1, 1]]), np.array([[0, 0, 0], [1, 1, 1], [0, 0, 0]])
    # i0: c0 with i2 and i4, t0 with i3; i1: c1 with i3, t1 with i4.
    wanted = np.stack([np.log((clicked + 1) / (shown + 10)), np.log1p(shown)], axis=2).reshape(3, -1)
    np.testing.assert_allclose(found[:, :6], wanted, rtol=1e-5)


def drawn(rng: np.random.Generator, count: int) -> tuple[Pairs, np.ndarray]:
    """Pairs whose clicks follow from a number and an id."""
    key_NS = rng.integers(0, 2**63, (20, 10)).astype(np.uint64)[rng.integers(0, 20, count)]
    number_NF = rng.normal(size=(count, 7)).astype(np.float32)
    logit_N = 2 * number_NF[:, 0] + np.where(key_NS[:, 0] % np.uint64(2) == 0, 1.0, -1.0)
    return Pairs(key_NS, number_NF), (rng.random(count) < 1 / (1 + np.exp(-logit_N))).astype(np.float32)


def test_the_served_graph_says_what_the_trained_model_says(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    trainer = DcnTrainer(10, 7, 0.1)
    assert abs(trainer.model.dense_parameters - PARAMETERS) < 100
    for _ in range(400):
        pairs, click_N = drawn(rng, 64)
        trainer.learn(pairs, click_N, rng.integers(0, 5, 64))
    trainer.save(tmp_path / "model.onnx")
    pairs, click_N = drawn(rng, 1_000)
    served_N = DcnScorer(tmp_path / "model.onnx").predict(pairs)
    places = np.stack([trainer.predict(pairs, np.full(1_000, place)) for place in range(5)])
    assert (places.min(axis=0) <= served_N).all()  # it serves an average place
    assert (served_N <= places.max(axis=0)).all()
    with torch.no_grad():
        trainer.model.place.fill_(trainer.mean_place)
    p_N = trainer.predict(pairs, np.zeros(1_000, np.int64))
    np.testing.assert_allclose(served_N, p_N, atol=1e-6)
    assert p_N[click_N == 1].mean() > p_N[click_N == 0].mean() + 0.2


def test_trees_begin_at_the_prior_and_are_fitted_when_due(tmp_path: Path) -> None:
    rng, path = np.random.default_rng(0), tmp_path / "model.txt"
    trainer = TreesTrainer(0.1)
    pairs, click_N = drawn(rng, FIRST_FITS[0] - 1)
    trainer.learn(pairs, click_N, np.zeros(len(click_N), np.int64))
    trainer.save(path)
    assert TreesScorer(path, 0.1).predict(pairs).tolist() == pytest.approx([0.1] * len(click_N))
    trainer.learn(*drawn(rng, 200), np.zeros(200, np.int64))
    trainer.save(path)
    pairs, click_N = drawn(rng, 1_000)
    p_N = TreesScorer(path, 0.1).predict(pairs)
    np.testing.assert_allclose(p_N, trainer.predict(pairs, np.zeros(1_000, np.int64)), rtol=1e-6)
    assert p_N[click_N == 1].mean() > p_N[click_N == 0].mean() + 0.2
