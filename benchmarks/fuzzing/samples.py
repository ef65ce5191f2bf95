"""Valid messages of every input topic, drawn so that they meet: few users, responses and items."""

import random
from collections.abc import Callable, Mapping

from msgspec import Struct

from benchmarks.fuzzing.mutations import Sampler
from router_bandit.budget import BudgetOptions, PriceController
from router_bandit.value_model import ValueOptions, VWValueModel
from streams.wire import messages as m
from streams.wire.topics import (
    CONVERSIONS,
    DECISIONS,
    EXAMPLES,
    IMPRESSIONS,
    OUTCOMES,
    REQUESTS,
    REWARDS,
    ROUTER_MODEL,
    SERVED,
)
from streams.workers.router.learn import Knowledge

TIERS = ("light", "heavy")
PLANS = ("light", "heavy", "light+heavy")


class Samples:
    """Draws messages. What it makes is of users, responses and events whose names begin with `fuzz`."""

    def __init__(self, now_ms: Callable[[], int], values: ValueOptions | None = None) -> None:
        self._now_ms = now_ms
        knowledge = Knowledge(VWValueModel(values or ValueOptions()), PriceController(BudgetOptions()))
        self._router_model = knowledge.to_message()

    def samplers(self) -> Mapping[str, Sampler]:
        return {
            REQUESTS: self.request,
            SERVED: self.served,
            IMPRESSIONS: self.impression,
            CONVERSIONS: self.conversion,
            EXAMPLES: self.example,
            DECISIONS: self.decision,
            OUTCOMES: self.outcome,
            REWARDS: self.reward,
            ROUTER_MODEL: self.router_model,
        }

    def request(self, rng: random.Random) -> Struct:
        candidates = [
            m.Candidate(item=self._item(rng), features=self._features(rng), bid=rng.random())
            for _ in range(rng.randint(0, 4))
        ]
        return m.RankingRequest(
            request_id=self._new(rng, "request"),
            user=self._user(rng),
            candidates=candidates,
            features=self._features(rng),
            context={"device": "phone"},
            event_ms=rng.choice([None, self._now_ms()]),
            top_k=rng.randint(1, 5),
        )

    def served(self, rng: random.Random) -> m.Served:
        items = [
            m.ServedItem(item=f"item-{n}", features=self._features(rng), pctr=rng.random(), pcvr=rng.random())
            for n in range(3)
        ]
        response = self._response(rng)
        return m.Served(
            response_id=response,
            request_id=self._new(rng, "request"),
            user=self._user_of(response),
            surface="feed",
            event_ms=self._now_ms(),
            log=m.LogRef(generation=rng.getrandbits(62), count=rng.randrange(40)),
            features=self._features(rng),
            context={},
            items=items,
            plan=rng.choice(PLANS),
            tier=rng.choice(TIERS),
            model=m.ModelVersion(epoch=1, number=rng.randrange(9)),
        )

    def impression(self, rng: random.Random) -> m.Impression:
        response = self._response(rng)
        return m.Impression(
            event_id=self._event(rng),
            user=self._user_of(response),
            response_id=response,
            item=self._item(rng),
            position=rng.randrange(20),
            event_ms=self._now_ms(),
        )

    def conversion(self, rng: random.Random) -> m.Conversion:
        return m.Conversion(
            event_id=self._new(rng, "act"),
            user=self._user(rng),
            kind=rng.choice(["click", "click", "purchase", "search"]),
            event_ms=self._now_ms(),
            item=rng.choice([None, self._item(rng)]),
            impression_id=rng.choice([None, self._event(rng)]),
            value=10 * rng.random(),
        )

    def example(self, rng: random.Random) -> m.TrainingExample:
        served, kind = self.served(rng), rng.choice(["click", "conversion"])
        return m.TrainingExample(
            example_id=self._new(rng, kind),
            kind="click" if kind == "click" else "conversion",
            label=float(rng.random() < 0.5),
            value=rng.random(),
            response_id=served.response_id,
            user=served.user,
            item=served.items[0].item,
            position=rng.randrange(20),
            surface=served.surface,
            event_ms=served.event_ms,
            log=rng.choice([m.LogRef(), served.log]),
            features=served.features,
            context=served.context,
            item_features=served.items[0].features,
            tier=served.tier,
            pctr=rng.random(),
            pcvr=rng.random(),
            model=served.model,
            trigger_ms=self._now_ms(),
            label_ms=self._now_ms(),
        )

    def decision(self, rng: random.Random) -> m.Decision:
        return m.Decision(
            response_id=self._response(rng),
            user=self._user(rng),
            event_ms=self._now_ms(),
            plan=rng.choice(PLANS),
            probabilities=dict.fromkeys(PLANS, 1 / 3),
            values={plan: rng.random() for plan in PLANS},
            costs={plan: 9 * rng.random() for plan in PLANS},
            measured_ms=9 * rng.random(),
            price=0.001,
            context={"surface": "feed", "hour": "7", "load": rng.random()},
            router_number=rng.randrange(9),
        )

    def outcome(self, rng: random.Random) -> m.Outcome:
        return m.Outcome(
            outcome_id=self._new(rng, "outcome"),
            response_id=self._response(rng),
            user=self._user(rng),
            kind="click",
            value=rng.random(),
            event_ms=self._now_ms(),
        )

    def reward(self, rng: random.Random) -> m.Reward:
        decision = self.decision(rng)
        return m.Reward(reward_id=self._new(rng, "reward"), decision=decision, earned=rng.random(), outcomes=1)

    def router_model(self, rng: random.Random) -> Struct:
        return self._router_model

    def _features(self, rng: random.Random) -> m.Features:
        features: dict[str, str | float | list[str]] = {
            "category": f"c{rng.randrange(5)}",
            "price": 100 * rng.random(),
            "interests": [f"t{rng.randrange(9)}" for _ in range(rng.randrange(3))],
        }
        return features

    @staticmethod
    def _new(rng: random.Random, what: str) -> str:
        return f"fuzz-{what}-{rng.getrandbits(60):x}"

    @staticmethod
    def _event(rng: random.Random) -> str:
        return f"fuzz-shown-{rng.randrange(3_000)}"

    @staticmethod
    def _user(rng: random.Random) -> str:
        return f"fuzz-user-{rng.randrange(20)}"

    @staticmethod
    def _response(rng: random.Random) -> str:
        return f"fuzz-response-{rng.randrange(1_000)}"

    @staticmethod
    def _user_of(response: str) -> str:
        return f"fuzz-user-{int(response.rpartition('-')[2]) % 20}"

    @staticmethod
    def _item(rng: random.Random) -> str:
        return f"item-{rng.randrange(4)}"
