"""The router inside a ranking process: newest value model and price in, plan and decision out.

Predicts only; learning is the learner process's (router.model brings what it learned).
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from confluent_kafka import TopicPartition

from router_bandit.cost_model import CostModel
from router_bandit.plans import Plan, check_plans, request_context
from router_bandit.policy import Choice, Exploration, choose, uniform_draw
from router_bandit.value_model import ModelBytesError, ValueOptions, VWValueModel
from streams.errors import Refused
from streams.kafka.connection import Kafka, watermarks
from streams.runtime.sparing import Sparing
from streams.wire.codec import decode
from streams.wire.messages import RouterModel
from streams.wire.record import Record
from streams.wire.topics import ROUTER_MODEL, TOPICS

log = logging.getLogger(__name__)

HEADROOM = 3.0
"""On a busy machine a millisecond of compute takes longer than one."""


@dataclass(frozen=True, slots=True)
class Routed:
    """A choice of plan with what it was made from."""

    plan: Plan
    choice: Choice
    values: Mapping[str, float]
    costs: Mapping[str, float]
    price: float
    context: dict[str, str | float]
    router_number: int
    forced: bool
    reason: str | None


class Router:
    """Chooses plans. Before a model has come, all values are 0: the cheapest plan is best, the floor explores."""

    def __init__(
        self, plans: Sequence[Plan], *, exploration: Exploration, values: ValueOptions, initial_price: float, seed: int
    ) -> None:
        check_plans(tuple(plans))
        self._plans = {plan.name: plan for plan in plans}
        self._exploration = exploration
        self._options = values
        self._model = VWValueModel(values, read_only=True)
        self._costs = CostModel()
        self._seed = seed
        self.price = initial_price
        self.number = 0

    def route(
        self,
        response_id: str,
        *,
        surface: str,
        event_ms: int,
        candidates: int,
        log_length: int,
        load: float,
        device: str,
        time_left_ms: float,
        ahead_ms: float = 0.0,
    ) -> Routed:
        """A plan for this request: one that is predicted to answer in the time left, or else the cheapest.

        ahead_ms: predicted compute of what the same micro-batch scores before it.
        """
        context = request_context(
            surface=surface, event_ms=event_ms, candidates=candidates, log_length=log_length, load=load, device=device
        )
        names = list(self._plans)
        costs = {name: self._costs.predict(name, candidates, log_length) for name in names}
        values = self._model.predict(context, names)
        in_time = [name for name in names if HEADROOM * (ahead_ms + costs[name]) <= time_left_ms]
        in_time = in_time or [min(costs, key=costs.__getitem__)]
        limited = len(in_time) < len(names)
        choice = choose(
            values,
            costs,
            self.price,
            exploration=self._exploration,
            draw=uniform_draw(response_id, self._seed),
            allowed=in_time,
        )
        return Routed(
            self._plans[choice.plan],
            choice,
            values,
            costs,
            self.price,
            context,
            self.number,
            forced=choice.forced,
            reason="deadline" if limited else None,
        )

    def measured(self, plan: str, candidates: int, log_length: int, milliseconds: float) -> None:
        self._costs.learn(plan, candidates, log_length, milliseconds)

    def take(self, message: RouterModel) -> bool:
        """Puts a newer model and price in force. False, with nothing changed, for an older or a damaged one."""
        if message.number <= self.number:
            return False
        try:
            self._model = VWValueModel.from_bytes(message.weights, self._options, read_only=True)
        except ModelBytesError as error:
            log.warning("router.model %d is of no use here: %s", message.number, error)
            return False
        self.price, self.number = message.price, message.number
        return True


class RouterModelSource:
    """Follows router.model: `poll` hands out the newest record that came since."""

    def __init__(self, kafka: Kafka, *, every_s: float = 0.25) -> None:
        self._reader = kafka.reader(eof=False)
        self._signer = kafka.signer
        self._every_s = every_s
        self._asked = 0.0
        self._said = Sparing()
        end = watermarks(self._reader, ROUTER_MODEL, 0)[1]
        # From the newest record on: each one is the whole model.
        self._reader.assign([TopicPartition(ROUTER_MODEL, 0, max(end - 1, 0))])

    def poll(self) -> RouterModel | None:
        if time.monotonic() - self._asked < self._every_s:
            return None
        self._asked = time.monotonic()
        newest: RouterModel | None = None
        for message in self._reader.consume(16, timeout=0):
            if message.error() is not None:
                continue
            record = Record.of(message)
            if self._signer is not None and not self._signer.vouches_for(record):
                if self._said.due("unsigned"):
                    log.warning("%s: skipped, it is not signed with this key", record)
                continue
            try:
                newest = decode(TOPICS[ROUTER_MODEL], record.value)
            except Refused as refused:
                if self._said.due("refused"):
                    log.warning("router.model@%s: %s", message.offset(), refused)
        return newest

    def close(self) -> None:
        self._reader.close()
