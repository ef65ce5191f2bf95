"""Which snapshots are kept."""

from collections.abc import Sequence
from dataclasses import dataclass

_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS


@dataclass(frozen=True, kw_only=True, slots=True)
class Retention:
    """A snapshot is kept if any of the three wants it. Hours and days (UTC) without a snapshot are not counted."""

    newest: int = 3
    hourly: int = 0
    """The newest of each of so many last hours that have one."""
    daily: int = 0
    """The newest of each of so many last days that have one."""

    def __post_init__(self) -> None:
        if self.newest < 1 or min(self.hourly, self.daily) < 0:
            raise ValueError(
                "the newest snapshot must be kept, and hourly and daily be >= 0, "
                f"got {self.newest}, {self.hourly}, {self.daily}"
            )

    def kept(self, created_ms: Sequence[int | None]) -> set[int]:
        """Indices of those to keep. created_ms: of each, oldest snapshot first; None where nobody knows."""
        kept = set(range(len(created_ms))[-self.newest :])
        for count, length_ms in ((self.hourly, _HOUR_MS), (self.daily, _DAY_MS)):
            newest = {ms // length_ms: index for index, ms in enumerate(created_ms) if ms is not None}
            kept |= {newest[period] for period in sorted(newest)[len(newest) - min(count, len(newest)) :]}
        return kept


DEFAULT_RETENTION = Retention()
