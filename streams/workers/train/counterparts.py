"""Whether clicks come with what was not clicked, and what was not clicked with clicks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ranker.delayed.policies import Policy
from streams.runtime import metrics as metric
from streams.wire.messages import TrainingExample
from streams.workers.train.examples import emission, surprise

MEMORY_MS = 1_000
"""How long, in broker time, labels of one sign count as company for the other: windows close in sweeps, ten in a
second. Twenty clicks alone, of three seconds, have raised all predictions from .2 to .8."""
SURPRISE_NATS = 10.0
"""Surprise at which labels in a row of one side only count as alone: less likely than e^-10, by what was predicted of
them."""


@dataclass(slots=True)
class _Side:
    """The positive or the negative labels of one kind."""

    seen_ms: int | None = None
    """When the last came, by the broker's time of what was read then."""
    surprise: float = 0.0
    """Nats: how unlikely it was that since the other side's last label only labels of this one came."""


class Counterparts:
    """Leaves out labels that come alone.

    A click comes within seconds, and what was not clicked when its window closes. In steady traffic as many windows
    close as open, and both come side by side. But where traffic begins, or begins again after a break, there are
    clicks alone for a whole window; where it ends, or clicks are reported no more, there is what was not clicked alone.
    A model that learned on would forget the base rate within seconds. What is left out is not missed: the clicks of
    traffic's first window have their counterpart in the negatives of its last. A trainer that reads one partition's
    backlog before another's takes the one's labels for company of the other's.
    """

    def __init__(self, policies: Mapping[str, Policy], *, resumed: bool) -> None:
        """policies: by kind of label. resumed: in the midst of a stream, of which an earlier trainer saw both sides."""
        self._policies = policies
        self._resumed = resumed
        self._sides = {(kind, positive): _Side() for kind in policies for positive in (False, True)}

    def split(
        self, examples: Sequence[TrainingExample], read_ms: int
    ) -> tuple[list[TrainingExample], list[TrainingExample]]:
        """Those to learn from, and those that are alone. read_ms: the newest broker time that was read.

        What its policy does not learn from (a final negative, where it was learned when it was provisional) is no
        counterpart to anything, and never alone.
        """
        if self._resumed:
            self._resumed = False
            for side in self._sides.values():
                side.seen_ms = read_ms
        weighty = [example for example in examples if self._policies[example.kind].times[emission(example)]]
        came = {(example.kind, example.label > 0) for example in weighty}
        for kind, positive in came:
            self._sides[kind, positive].seen_ms = read_ms
            self._sides[kind, not positive].surprise = 0.0
        alone = [
            example
            for example in weighty
            if (example.kind, example.label <= 0) not in came and not self._accompanied(example, read_ms)
        ]
        metric.SKIPPED.labels("alone").inc(len(alone))
        left = {id(example) for example in alone}
        return [example for example in examples if id(example) not in left], alone

    def _accompanied(self, example: TrainingExample, read_ms: int) -> bool:
        """Whether labels of the other side from steps before keep it company: recent ones, or while labels of one side
        alone are no surprise."""
        positive = example.label > 0
        side, other = self._sides[example.kind, positive], self._sides[example.kind, not positive]
        if other.seen_ms is None:
            return False
        side.surprise += surprise(example)
        return read_ms <= other.seen_ms + MEMORY_MS or side.surprise < SURPRISE_NATS
