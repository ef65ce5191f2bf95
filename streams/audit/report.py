"""What an audit has found: counts by section, and the ids of what is wrong. Knows nothing of topics."""

from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

MAX_IDS = 10
"""Ids that are kept of each anomaly."""

Verdict = Literal["count", "fault", "unknown"]
"""count    a number to know; whatever it is, nothing is wrong
fault    must be zero
unknown  would be a fault, but the broker has let go of records that it takes to tell
"""


@dataclass(frozen=True, slots=True)
class Line:
    name: str
    count: int
    verdict: Verdict = "count"
    ids: tuple[str, ...] = ()
    """Up to MAX_IDS of those counted."""


@dataclass(slots=True)
class Section:
    title: str
    lines: list[Line] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    """What is behind a fault, in words, where the audit can tell."""

    def wrong(self, *names: str) -> int:
        """What is at fault in these lines."""
        return sum(line.count for line in self.lines if line.name in names and line.verdict == "fault")

    def count(self, name: str, number: int, ids: Collection[str] = ()) -> None:
        self.lines.append(Line(name, number, ids=_some(ids)))

    def waits(self, name: str, ids: Collection[str], *, number: int | None = None, held: bool) -> None:
        """What nobody works on: a fault, but where an open transaction holds the workers up."""
        if held:
            self.count(name, len(ids) if number is None else number, ids)
        else:
            self.fault(name, ids, number=number)

    def fault(self, name: str, ids: Collection[str], *, number: int | None = None, verifiable: bool = True) -> None:
        """A count that must be zero; `number` where not all of it have ids."""
        count = len(ids) if number is None else number
        self.lines.append(Line(name, count, "fault" if verifiable else "unknown", _some(ids)))


@dataclass(frozen=True, slots=True)
class AuditReport:
    sections: tuple[Section, ...]
    let_go: dict[str, int]
    """By topic, offsets at its beginning whose records the broker no longer had; topics that are whole are left out."""

    @property
    def ok(self) -> bool:
        """Nothing that could be verified is wrong."""
        return not any(line.count for _, line in self._lines() if line.verdict == "fault")

    def count(self, section: str, name: str) -> int:
        """The count of one line; 0 where the section was not audited or has no such line."""
        return sum(line.count for title, line in self._lines() if (title, line.name) == (section, name))

    def as_dict(self) -> dict[str, Any]:
        """As JSON: the counts by section, then what is wrong and what cannot be told, with ids."""
        found: dict[str, Any] = {"ok": self.ok}
        for section in self.sections:
            found[section.title] = {line.name: line.count for line in section.lines}
        for verdict in ("fault", "unknown"):
            found[verdict] = [
                {"section": title, "name": line.name, "count": line.count, "ids": list(line.ids)}
                for title, line in self._lines()
                if line.verdict == verdict and line.count
            ]
        reasons = [reason for section in self.sections for reason in section.reasons]
        return found | {"reasons": reasons, "let_go": self.let_go}

    def text(self) -> str:
        """A table for people."""
        width = max((len(line.name) for _, line in self._lines()), default=0) + 4
        rows = []
        for section in self.sections:
            rows.append(section.title)
            rows += [_row(line, width) for line in section.lines]
            rows += [f"  {reason}" for reason in section.reasons]
        rows += [
            f"{topic}: the broker has let go of the first {count:,} offsets; what would need their records is unknown, "
            "not verified"
            for topic, count in sorted(self.let_go.items())
        ]
        wrong = sum(1 for _, line in self._lines() if line.verdict == "fault" and line.count)
        rows.append("ok: nothing is wrong" if self.ok else f"NOT OK: {wrong} counts that must be zero are not")
        return "\n".join(rows)

    def _lines(self) -> list[tuple[str, Line]]:
        return [(section.title, line) for section in self.sections for line in section.lines]


def _row(line: Line, width: int) -> str:
    mark = ""
    if line.verdict == "unknown":
        mark = "  cannot be verified"
    elif line.verdict == "fault":
        mark = "  WRONG" if line.count else "  ok"
    ids = f"  {', '.join(line.ids)}" if line.ids else ""
    more = ", …" if line.ids and line.count > len(line.ids) else ""
    return f"  {line.name.replace('_', ' '):<{width}}{line.count:>10,}{mark}{ids}{more}"


def _some(ids: Collection[str]) -> tuple[str, ...]:
    return tuple(islice(ids, MAX_IDS))
