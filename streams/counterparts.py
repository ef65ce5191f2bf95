"""Whether clicks come with what was not clicked, and what was not clicked with clicks."""

from collections.abc import Sequence
from dataclasses import dataclass

from streams import metric_names as metric
from streams.examples import surprise
from streams.messages import TrainingExample

MEMORY_MS = 3_000
"""By the join's clock. So long a side counts that came: windows close in sweeps, less than a second apart."""
SURPRISE_NATS = 10.0
"""Labels in a row of one side only that are less likely than e^-10, by what was predicted of them."""


@dataclass(slots=True)
class _Side:
    """The positive or the negative labels of one kind."""

    seen_ms: int | None = None
    """When the last came, by the join's clock."""
    surprise: float = 0.0
    """Nats: how unlikely it was that since the other side's last label only labels of this one came."""


class Counterparts:
    """Leaves out labels that come alone.

    A click comes within seconds, and what was not clicked when its window closes. In steady traffic as many windows
    close as open, and both come side by side. But where traffic begins, or begins again after a break, there are
    clicks alone for a whole window; where it ends, or clicks are reported no more, there is what was not clicked alone.
    A model that learned on would forget the base rate within seconds. What is left out is not missed: the clicks of
    traffic's first window have their counterpart in the negatives of its last.
    """

    def __init__(self, *, resumed: bool) -> None:
        """resumed: in the midst of a stream, of which an earlier trainer saw both sides."""
        self._resumed = resumed
        self._sides = {(kind, positive): _Side() for kind in ("click", "conversion") for positive in (False, True)}

    def keep(self, examples: Sequence[TrainingExample], closed_ms: int) -> list[TrainingExample]:
        """Those to learn from. closed_ms: the join's clock, as far as all of its labels have been read."""
        if self._resumed and closed_ms:
            self._resumed = False
            for side in self._sides.values():
                side.seen_ms = closed_ms
        for example in examples:
            positive = example.label > 0
            self._sides[example.kind, positive].seen_ms = closed_ms
            self._sides[example.kind, not positive].surprise = 0.0
        kept = [example for example in examples if self._resumed or self._accompanied(example, closed_ms)]
        metric.SKIPPED.labels("alone").inc(len(examples) - len(kept))
        return kept

    def _accompanied(self, example: TrainingExample, closed_ms: int) -> bool:
        positive = example.label > 0
        side, other = self._sides[example.kind, positive], self._sides[example.kind, not positive]
        if other.seen_ms is None:
            return False
        side.surprise += surprise(example)
        return closed_ms <= other.seen_ms + MEMORY_MS or side.surprise < SURPRISE_NATS
