"""What became of an impression of the log: predicted when, and by weights that had learned what."""

from collections.abc import Sequence
from dataclasses import dataclass

from streams.replay.baselines import Schedule, known_at

NEVER = 2**62
"""Update by which a label was learned that was not."""


@dataclass(frozen=True, slots=True)
class Graded:
    """One click example."""

    response_id: str
    label: float
    predicted: float
    event_ms: int
    """Event time of the request."""
    label_ms: int
    """When the label became known, in event time."""
    served_by: int
    """Update that the prediction was made with; see in_order."""
    learned_by: int = NEVER
    """Update that had learned the label first."""
    tier: str = ""
    """Tier that made the prediction."""


def in_order(epoch: int, number: int) -> int:
    """One number for an update of an epoch, larger for a later one."""
    return epoch << 40 | number


def at_its_time(examples: Sequence[Graded]) -> Schedule:
    """Labels are known when their time is over, as soon as any predictor may."""
    return known_at([e.event_ms for e in examples], [e.label_ms for e in examples])


def as_the_model(examples: Sequence[Graded]) -> Schedule:
    """Labels are known to a prediction where the model that made it had learned them."""
    return known_at([e.served_by + 1 for e in examples], [e.learned_by for e in examples])
