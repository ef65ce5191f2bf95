"""Whether a recipe can be judged by a log: what must hold between its settings and what the log's rows give."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from types import MappingProxyType

from ranker.config import HOUR, ITEM, SURFACE, USER, Slot
from streams.config.recipe import Recipe
from streams.datasets.logs.traffic import TrafficLog
from streams.errors import StartError

_FILLED: Mapping[str, Slot] = MappingProxyType(
    {
        USER: Slot(name=USER, side="user"),
        ITEM: Slot(name=ITEM, side="candidate"),
        HOUR: Slot(name=HOUR, side="context"),
        SURFACE: Slot(name=SURFACE, side="context"),
    }
)
"""Slots that every request fills, whatever its features."""


def check_recipe(recipe: Recipe, log: TrafficLog, *, first_ms: int, own: str) -> None:
    """Raises StartError naming all that keeps the log from judging this recipe.

    first_ms: event time of the first request. own: name of the log's own recipe.
    """
    if wrong := [*_slots(recipe, log), *_settings(recipe, first_ms)]:
        raise StartError(
            f"recipe {recipe.name} does not fit {log.name}: {'; '.join(wrong)}. A file that begins with "
            f'`base = "{own}"` and changes what is to be tried does fit; or mend the mapping'
        )


def left_aside(recipe: Recipe, log: TrafficLog) -> list[str]:
    """Names of what the rows give and the recipe has no slot for."""
    read = {HOUR, SURFACE, *(slot.name for slot in recipe.model.slots)}
    return [slot.name for slot in log.model.slots if slot.name not in read]


def _slots(recipe: Recipe, log: TrafficLog) -> Iterator[str]:
    given = {**_FILLED, **{slot.name: slot for slot in log.model.slots}}
    if missing := [f"{slot.name} ({slot.side})" for slot in recipe.model.slots if slot.name not in given]:
        yield f"nothing in the rows fills its slots {', '.join(missing)}"
    for slot in recipe.model.slots:
        rows = given.get(slot.name, slot)
        if rows.side != slot.side:
            yield f"its slot {slot.name!r} is of the {slot.side}, and the rows give it with the {rows.side}"
        elif rows.kind != slot.kind:
            yield f"its slot {slot.name!r} is {slot.kind}, and the rows give it as {rows.kind} (numeric_columns)"


def _settings(recipe: Recipe, first_ms: int) -> Iterator[str]:
    if recipe.clock != "event":
        yield f'clock must be "event", by which time stands still where the log is silent, got "{recipe.clock}"'
    if recipe.min_event_ms > first_ms:
        yield (
            f"min_event_ms must be at most {first_ms}, the log's first event (of {_day(first_ms)}), which would be "
            f"refused else; got {recipe.min_event_ms}"
        )
    if "click" not in recipe.kinds.clicks:
        yield f"kinds.clicks must have 'click', which the log's clicks are sent as, got {list(recipe.kinds.clicks)}"


def _day(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).date().isoformat()
