"""What goes into the join and what comes out. Plain values; knows nothing of Redis or Kafka.

Times named *_ms are event times in milliseconds since the Unix epoch; kafka_ms is the broker's timestamp of the record.
"""

from dataclasses import dataclass
from typing import Literal

from feature_store.events import without_item

Role = Literal["click", "conversion", "log"]
Outcome = Literal[
    "served",
    "log_only",
    "waiting",
    "matched",
    "repeated",
    "late",
    "unmatched",
    "implausible",
    "expired",
    "unserved",
    "provisional",
]
"""What became of a fact, or of a timer that fired:

served      a served record was stored
log_only    the event went to the log; it labels nothing
waiting     kept until its other half, its served record or its window's end comes
matched     it completed at least one label
repeated    its impression (of this response and item) or that one's label is already taken by another event
late        its impression's window had closed
unmatched   nothing to label: no such impression, an item the response did not hold, a conversion without a click
implausible its time is before its request's, or long before that of the impression which it names
expired     a window closed, and the label is negative
unserved    a window closed, but the served record is not known: the label waits for it
provisional the elapsed time passed without a conversion: an example says so, and may be corrected
"""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a log stood: the first `count` events of the log created as `generation`. (0, 0): there was no log."""

    generation: int
    count: int


NO_LOG = Position(0, 0)


@dataclass(frozen=True, slots=True)
class ServedFact:
    """A response was served: `blob` is what its labels will be handed back with.

    event_ms is of the request, by no later clock than the broker's.
    """

    response_id: str
    user: str
    event_ms: int
    items: tuple[str, ...]
    blob: bytes


@dataclass(frozen=True, slots=True)
class ImpressionFact:
    """An item of a response was shown in slot `position`. record is the 16-byte log record."""

    event_id: str
    user: str
    response_id: str
    item: str
    position: int
    event_ms: int
    kafka_ms: int
    record: bytes


@dataclass(frozen=True, slots=True)
class ActionFact:
    """A user did something. A click or conversion names its impression, or only its item. record as above."""

    event_id: str
    user: str
    kind: str
    role: Role
    item: str | None
    impression_id: str | None
    value: float
    event_ms: int
    kafka_ms: int
    record: bytes


Fact = ServedFact | ImpressionFact | ActionFact


def is_stored_as(fact: ImpressionFact | ActionFact, record: bytes) -> bool:
    """Whether a record of the log is this event's: of an action that names no item, with any (its impression's)."""
    if isinstance(fact, ActionFact) and fact.item is None:
        return without_item(fact.record) == without_item(record)
    return fact.record == record


@dataclass(frozen=True, slots=True)
class Label:
    """One training label. Its identity is (kind, impression_id) and whether it is provisional: see example_id."""

    kind: Literal["click", "conversion"]
    label: int
    value: float
    response_id: str
    item: str
    position: int
    """The slot it was shown in."""
    impression_id: str
    impression_ms: int
    trigger_id: str
    """The click or conversion that decided the label; empty where a window's end did."""
    trigger_kafka_ms: int
    """Its broker timestamp; 0 where a window's end decided."""
    label_ms: int
    """Event time at which the label was decided."""
    blob: bytes
    by_window: bool
    provisional: bool = False
    """Negative before it is certain; the final label follows in any case."""
    corrects: bool = False
    """Positive, where a provisional label says negative."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one fact. A redelivery gets the reply of the first delivery, except that stored is False."""

    stored: bool
    """This delivery changed the log (of a served record: the join)."""
    position: Position | None
    """Position of the log just after the event; None for served records, which are not events."""
    labels: tuple[Label, ...]
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Closed:
    """What a timer that fired decided. The decision is stored already; settle it once its labels are delivered."""

    user: str
    timer: bytes
    stage: int
    due_ms: int
    outcomes: tuple[Outcome, ...]
    """Empty where nothing was left to decide: a window whose label had come, state whose time to live was over."""
    labels: tuple[Label, ...]


def example_id(label: Label) -> str:
    """Returns an id that is the same for every delivery of the same label."""
    provisional = "unclicked" if label.kind == "click" else "provisional"
    return f"{provisional if label.provisional else label.kind}:{label.impression_id}"
