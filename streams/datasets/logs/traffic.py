"""One line of a log of real traffic, whatever it was read from."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ranker.config import ModelConfig

Feature = str | float | list[str]
FeatureMap = dict[str, Feature]


@dataclass(frozen=True, slots=True)
class LoggedImpression:
    """This item was shown to this user then, and clicked or not."""

    user: str
    item: str
    event_ms: int
    """Milliseconds since the Unix epoch."""
    clicked: bool
    position: int = 0
    user_features: FeatureMap | None = None
    item_features: FeatureMap | None = None
    context: FeatureMap | None = None


@dataclass(frozen=True, slots=True)
class TrafficLog:
    """A log in the order of event time, with what is needed to replay it."""

    name: str
    read: Callable[[], Iterator[LoggedImpression]]
    model: ModelConfig
    """Slots as this log has them."""
    click_window_ms: int
    """How long a shown item can be clicked, in event time."""
    candidates: int
    """Number of candidates of each request: the logged item and others that were shown shortly before."""
    begins_ms: int = 0
    """No line is of an earlier time; while the log is replayed, earlier events are refused (`min_event_ms`)."""
    notes: str = ""
    """What a reader of the results should know about this log."""
