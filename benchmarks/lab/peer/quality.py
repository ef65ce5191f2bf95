"""What the peers predict on the stream of the ladder, learning as it comes."""

import numpy as np

from benchmarks.lab.peer.features import PairFeatures
from benchmarks.lab.peer.kinds import KINDS
from benchmarks.lab.stream import Stream, user_side
from ranker.arrays import F32
from ranker.config import ModelConfig

BATCH = 16
"""Requests in a step."""


def predictions(kind: str, stream: Stream, model: ModelConfig, log_length: int) -> F32:
    """[N]: of each impression before it was learned, where it was shown: as the ladder grades the tiers."""
    trainer, features, side = KINDS[kind].trainer(model), PairFeatures(model), user_side(model)
    found = []
    for first in range(0, stream.requests, BATCH):
        last = min(first + BATCH, stream.requests)
        ends = stream.log_end_R[first:last].tolist()
        starts = np.maximum(stream.log_start_R[first:last], stream.log_end_R[first:last] - log_length).tolist()
        logs = [stream.events_E[start:end] for start, end in zip(starts, ends, strict=True)]
        pairs = features.of(stream.batch(first, last, 0, side), logs)
        cut = slice(int(stream.candidate_starts[first]), int(stream.candidate_starts[last]))
        found.append(trainer.predict(pairs, stream.position_N[cut]))
        trainer.learn(pairs, stream.click_N[cut], stream.position_N[cut])
    return np.concatenate(found)
