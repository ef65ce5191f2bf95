"""Event time: how far the events have been read. In memory only; knows nothing of Kafka or Redis."""

from dataclasses import dataclass


@dataclass(slots=True)
class _Partition:
    newest_ms: int | None = None
    at_end: bool = False


class EventClock:
    """The time up to which all events have been read; windows close by it. It never goes back but by `restart`.

    A partition that is read to its end holds nothing back: more may come, but nothing is there. Of the others, the one
    whose newest event is oldest decides, and one that has shown no event yet stops the clock. Where all are at their
    end, the newest event of all decides.
    """

    def __init__(self) -> None:
        self._partitions: dict[tuple[str, int], _Partition] = {}
        self._now_ms = 0

    def add(self, topic: str, partition: int) -> None:
        """Follow a partition; from here on it holds the clock until it shows an event or its end."""
        self._partitions.setdefault((topic, partition), _Partition())

    def drop(self, topic: str, partition: int) -> None:
        """The partition is another reader's now."""
        self._partitions.pop((topic, partition), None)

    def observe(self, topic: str, partition: int, event_ms: int, *, bound_ms: int) -> bool:
        """An event was read, so the partition is not known to be at its end.

        An event beyond bound_ms (of the reader's choice: its broker timestamp and some tolerance, say) does not move
        the clock: returns False.
        """
        state = self._partitions.setdefault((topic, partition), _Partition())
        state.at_end = False
        if event_ms > bound_ms:
            return False
        state.newest_ms = event_ms if state.newest_ms is None else max(state.newest_ms, event_ms)
        return True

    def at_end(self, topic: str, partition: int) -> None:
        """The partition is read to its end."""
        self._partitions.setdefault((topic, partition), _Partition()).at_end = True

    def behind(self, topic: str, partition: int) -> None:
        """There is more to read in the partition: it holds the clock until it shows that, or its end."""
        self._partitions.setdefault((topic, partition), _Partition()).at_end = False

    def restart(self) -> None:
        """What was read is to be read again: as if nothing had been."""
        self._partitions = {place: _Partition() for place in self._partitions}
        self._now_ms = 0

    def newest_ms(self) -> int:
        """The newest event that was read of any partition; 0 before the first."""
        return max((p.newest_ms for p in self._partitions.values() if p.newest_ms is not None), default=0)

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch, in event time; 0 before the first event."""
        behind = [p.newest_ms for p in self._partitions.values() if not p.at_end]
        if behind:
            reached = min((ms if ms is not None else 0) for ms in behind)
        else:
            reached = self.newest_ms()
        self._now_ms = max(self._now_ms, reached)
        return self._now_ms
