"""The rows of a load run, for people and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from streams.load.measure import PHASES, LoadOptions, Row
from streams.load.search import Sustained

HEAD = (
    "   rate  reached      p50     p90     p99   p99.9     max   in time  timeouts   "
    + "  ".join(f"{name:>6}" for name in PHASES)
    + "  weights  behind  tiers, fallbacks"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadReport:
    options: LoadOptions
    log_length: int
    """Events of every user's log at the beginning."""
    log_lengths: tuple[int, int]
    """Fewest and most at the end: the run's own events go into the logs too."""
    rows: Sequence[Row]
    where: str
    """The machine, the broker."""
    sustained: Sustained | None = None
    """What was asked of a sustained rate; None if none was searched."""
    max_rate: float | None = None
    """The highest one."""

    def as_dict(self) -> dict[str, Any]:
        searched = {"max_rate": self.max_rate, "sustained": asdict(self.sustained)} if self.sustained else {}
        return {
            "where": self.where,
            "options": asdict(self.options),
            "log_length": self.log_length,
            "log_lengths_at_end": list(self.log_lengths),
            "rows": [row.as_dict() for row in self.rows],
            **searched,
        }

    def text(self) -> str:
        o = self.options
        low, high = self.log_lengths
        lines = [
            self.where,
            f"{o.candidates} candidates; {o.users} users, logs of {self.log_length} events ({low}-{high} at the end)",
            f"deadline {o.deadline_ms} ms, {o.pacing} arrivals, {'with' if o.events else 'no'} events; "
            "times: ms from due to read; of phases the median of a micro-batch; behind: s of examples not yet learned",
            HEAD,
            *(line(row) for row in self.rows),
        ]
        if behind := [row for row in self.rows if row.sender_behind]:
            lines.append(_behind(behind))
        if self.sustained:
            lines.append(_searched(self.sustained, self.max_rate))
        return "\n".join(lines)


def line(row: Row) -> str:
    """A row under HEAD."""
    latency = [row.latency.percentile(percent) or 0.0 for percent in (50, 90, 99, 99.9)]
    times = "".join(f"{value:8.1f}" for value in (*latency, row.latency.max or 0.0))
    phases = "  ".join(_cell(row.phases[name].percentile(50) if name in row.phases else None) for name in PHASES)
    tiers = [f"{tier} {n / row.tiers.total():.0%}" for tier, n in row.tiers.most_common()]
    fallbacks = [f"{reason} {n}" for reason, n in row.unscored.most_common()]
    served = "; ".join(filter(None, (", ".join(tiers), ", ".join(fallbacks))))
    return (
        f"{row.rate:7.1f}  {row.reached():7.1f} {times}  {row.in_time_share:7.2%}  {row.timeouts:8d}   "
        f"{phases}  {len(row.versions):7d}  {_cell(row.behind_s)}  {served}"
    )


def _cell(value: float | None) -> str:
    return f"{value:6.2f}" if value is not None else "     –"


def _behind(rows: Sequence[Row]) -> str:
    late = ", ".join(f"{row.late.percentile(99) or 0:.0f} ms at {row.rate:g}/s" for row in rows)
    return f"the sender itself was late, which is part of the latency; in 1 of 100 requests by at least {late}"


def _searched(sustained: Sustained, max_rate: float | None) -> str:
    asked = (
        f"{sustained.in_time:.0%} scored in time, {sustained.reached:.0%} of the rate reached, "
        f"p99 within {sustained.p99_ms:g} ms, the trainer within {sustained.behind_s:g} s"
    )
    if max_rate is None:
        return f"no rate is sustained ({asked})"
    return f"highest sustained rate: {max_rate:.1f} requests a second ({asked})"
