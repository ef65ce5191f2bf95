"""Short builders of facts, for one user and one response unless told otherwise. Times are milliseconds."""

from feature_store import ActionFact, ImpressionFact, LogEvent, Role, ServedFact, encode_event

T0 = 1_700_000_000_000
MINUTE = 60_000


def record(number: int) -> bytes:
    """A log record that is recognized by its item."""
    return encode_event(LogEvent(time_s=T0 // 1000, item=number, action=1))


def served(response: str = "r", *, items: tuple[str, ...] = ("a", "b"), at: int = 0, user: str = "u") -> ServedFact:
    return ServedFact(response, user, T0 + at, items, f"blob of {response}\0\xff".encode())


def impression(
    event: str = "i", *, item: str = "a", at: int = 0, response: str = "r", user: str = "u", position: int = 0
) -> ImpressionFact:
    ms = T0 + at
    return ImpressionFact(event, user, response, item, position, ms, ms + 7, record(hash_of(event)))


def action(
    event: str,
    role: Role = "click",
    *,
    names: str | None = "i",
    item: str | None = None,
    at: int = 0,
    value: float = 0.0,
    user: str = "u",
) -> ActionFact:
    ms = T0 + at
    return ActionFact(event, user, role, role, item, names, value, ms, ms + 7, record(hash_of(event)))


def hash_of(event: str) -> int:
    return int.from_bytes(event.encode()[:8].ljust(8, b"\0"), "little")
