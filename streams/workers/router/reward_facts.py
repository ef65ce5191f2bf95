"""Decisions, outcomes and rewards as messages, and as the reward windows hold them. Knows no client."""

from router_bandit.windows import Closed, DecisionFact, Delivered, OutcomeFact
from streams.errors import Refused
from streams.wire.codec import decode, encode
from streams.wire.messages import Decision, Outcome, Reward
from streams.wire.topics import DECISIONS, TOPICS


def to_reward(closed: Closed) -> Reward:
    return Reward(
        reward_id=closed.reward_id,
        decision=decode(TOPICS[DECISIONS], closed.payload),
        earned=closed.earned,
        outcomes=closed.outcomes,
        late=closed.late,
    )


def decision_fact(decision: Decision) -> DecisionFact:
    """Raises Refused where its reward could not be sent: JSON may take more bytes than what came."""
    payload = encode(TOPICS[DECISIONS], decision)
    if len(payload) > TOPICS[DECISIONS].max_bytes:
        raise Refused(f"a decision must be at most {TOPICS[DECISIONS].max_bytes} bytes in JSON, got {len(payload)}")
    return DecisionFact(
        response_id=decision.response_id,
        event_ms=decision.event_ms,
        plan=decision.plan,
        cost_ms=decision.measured_ms,
        forced=decision.forced,
        payload=payload,
    )


def outcome_fact(outcome: Outcome) -> OutcomeFact:
    return OutcomeFact(
        outcome_id=outcome.outcome_id,
        response_id=outcome.response_id,
        event_ms=outcome.event_ms,
        value=outcome.value,
    )


def delivered_fact(reward: Reward) -> Delivered:
    """Raises Refused or ValueError where no rewards worker can have made it."""
    fact = decision_fact(reward.decision)
    return Delivered(fact, reward.reward_id, reward.earned, reward.outcomes, late=reward.late)
