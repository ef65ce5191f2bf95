"""The two peers, by name."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.lab.peer.dcn import DcnScorer, DcnTrainer
from benchmarks.lab.peer.features import PairFeatures, Pairs
from benchmarks.lab.peer.trees import TreesScorer, TreesTrainer
from ranker.arrays import F32, I64
from ranker.config import ModelConfig


class Scorer(Protocol):
    def predict(self, pairs: Pairs) -> F32:
        """[N] probabilities of a click, wherever it is shown."""
        ...


class Trainer(Protocol):
    def predict(self, pairs: Pairs, position_N: I64) -> F32:
        """[N] probabilities of a click where each was shown."""
        ...

    def learn(self, pairs: Pairs, click_N: F32, position_N: I64) -> None: ...

    def save(self, path: Path) -> None: ...


@dataclass(frozen=True, slots=True)
class Kind:
    file: str
    """Name of the file by which a trainer hands its model to ranking."""
    trainer: Callable[[ModelConfig], Trainer]
    scorer: Callable[[Path, ModelConfig], Scorer]


def _dcn(model: ModelConfig) -> DcnTrainer:
    features = PairFeatures(model)
    return DcnTrainer(len(features.slots), features.numbers, model.click_prior)


KINDS = {
    "dcn": Kind("model.onnx", _dcn, lambda path, model: DcnScorer(path)),
    "trees": Kind(
        "model.txt",
        lambda model: TreesTrainer(model.click_prior),
        lambda path, model: TreesScorer(path, model.click_prior),
    ),
}
