"""A closed loop in simulated time: what is shown is chosen by predictions of a model that learns from what was shown.

Requests are those of the world's traffic, drawn once, with their truth and their luck: policies that are compared meet
the same, and differ by what they show alone. No user logs: the loop is about items.
"""

# R requests, k candidates of each, K places of its page, I items.

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.lab.training import alone
from kernels.linear_compress import bind
from ranker.arrays import F32, F64, I64
from ranker.config import LearnerConfig, ModelConfig
from ranker.engine import impressions, predict
from ranker.inputs.features import Featurizer
from ranker.inputs.requests import LabelledRequest, ScoringRequest
from ranker.inputs.tables import PlainTables
from ranker.learning.learner import Learner
from ranker.recipes import three_tiers
from streams.simulate.traffic import Traffic
from streams.simulate.world import World, sigmoid

TIER = "light"


@dataclass(frozen=True)
class Asked:
    """One request, with what only the world knows of it."""

    number: int
    request: ScoringRequest
    item_k: I64
    bid_k: F64
    logit_k: F64
    """Log-odds of a click, if looked at."""
    luck_k: F64
    """Uniform in [0, 1): a candidate that is shown is clicked where its true probability is above it."""


Policy = Callable[[Asked, F32, F32], F64]
"""What candidates [k] are ordered by, the largest first, from predictions [k] and impressions [k] that the model
counts."""


def one_tier() -> ModelConfig:
    """The light tier alone, without a log."""
    model = three_tiers()
    return replace(alone(model, replace(model.tier(TIER), log_length=0)), evidence=())


def visits(world: World, rate: float, seconds: float) -> list[Asked]:
    """The requests of the first seconds of the world, evenly at this rate."""
    traffic, found = Traffic(world), []
    features = [world.item_features(item) for item in range(world.config.items)]
    for number in range(int(rate * seconds)):
        now_ms = world.start_ms + int(1000 * number / rate)
        visit = traffic.next(now_ms)
        request = ScoringRequest(
            user=world.user_ids[visit.user],
            event_ms=now_ms,
            items=[world.item_ids[i] for i in visit.items],
            item_features=[features[i] for i in visit.items],
            features=world.user_features(visit.user),
            context={"device": visit.device},
            surface=visit.surface,
        )
        logit_k = world.click_logit(visit.user, visit.items, now_ms, surface=visit.surface, device=visit.device)
        luck_k = np.random.default_rng([world.seed, 12, number]).random(len(visit.items))
        found.append(Asked(number, request, visit.items, visit.bids, logit_k, luck_k))
    return found


class House:
    """A model that serves and learns, and what it has shown."""

    def __init__(self, world: World, model: ModelConfig, label_s: float) -> None:
        self.world = world
        self.learner = Learner(model, LearnerConfig(), bind("decomposed"))
        self.shown_I = np.zeros(world.config.items, np.int64)
        """Impressions so far."""
        self._featurizer = Featurizer(model)
        tables = self.learner.tables
        self._tables = PlainTables(
            model, key_maps=tables.key_maps, weights=tables.weights, catalogue=tables.catalogue
        )  # the learner's own, as it learns
        self._label_ms = 1000 * label_s
        self._waiting: deque[LabelledRequest] = deque()
        self._looks_K = world.examination(np.arange(world.config.shown))

    def predict(self, requests: Sequence[ScoringRequest]) -> F32:
        """Predicts clicks [N] of all candidates, at an average position."""
        return self._score(requests)[0]

    def _score(self, requests: Sequence[ScoringRequest]) -> tuple[F32, F32]:
        """Predictions [N], and the impressions [N] that the model counts."""
        keyed = self._featurizer.keys(requests, 0)
        shown_N = impressions(self._featurizer, self._tables, self.learner.config, keyed)
        assert shown_N is not None, "the model counts items"
        return predict(self._featurizer, self.learner.tiers, self._tables, TIER, keyed)[0], shown_N

    def serve(self, asked: Sequence[Asked], policy: Policy, *, predicted: bool = True) -> F64:
        """Shows a page for each; returns the value [R] of each. predicted: whether the policy reads predictions."""
        sizes = [len(one.item_k) for one in asked]
        nothing = np.zeros(sum(sizes), np.float32)
        found = self._score([one.request for one in asked]) if predicted else (nothing, nothing)
        p_Rk, shown_Rk = (np.split(x_N, np.cumsum(sizes)[:-1]) for x_N in found)
        return np.array([self._show(*one, policy) for one in zip(asked, p_Rk, shown_Rk, strict=True)])

    def learn(self, now_ms: int) -> None:
        """Takes one step on the pages whose labels are there by now."""
        due = []
        while self._waiting and self._waiting[0].request.event_ms + self._label_ms <= now_ms:
            due.append(self._waiting.popleft())
        if due and not self.learner.learn(due).applied:
            raise RuntimeError(f"the step at {now_ms} ms was not applied")

    def _show(self, asked: Asked, p_k: F32, shown_k: F32, policy: Policy) -> float:
        order_k = np.argsort(-policy(asked, p_k, shown_k), kind="stable")
        top = order_k[: len(self._looks_K)]
        truth_K = self._looks_K * sigmoid(asked.logit_k[top])
        unknown = np.full(len(top), np.nan, np.float32)
        labelled = LabelledRequest(
            request=asked.request.subset(top.tolist()),
            response_id=f"r{asked.number}",
            tier=TIER,
            click_N=(asked.luck_k[top] < truth_K).astype(np.float32),
            conversion_N=unknown,
            position_N=np.arange(len(top)),
            pctr_N=p_k[top],
            pcvr_N=unknown,
            value_N=np.zeros(len(top), np.float32),
        )
        self.shown_I[asked.item_k[top]] += 1
        self._waiting.append(labelled)
        return float(truth_K @ asked.bid_k[top])
