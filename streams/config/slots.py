"""What a recipe with slots of its own keeps of its base's evidence, crosses and statistics, and what is said of it."""

import json
from collections.abc import Iterator
from typing import Any

from ranker.config import ANY, ITEM

LISTS = ("evidence", "crosses", "statistics")


def fit_slots(model: dict[str, Any], given: Any) -> list[str]:
    """Where `given`, a file's table `model`, has slots, takes what does not fit them out of those lists of `model` that
    the file does not name. Returns what to tell of it, a sentence each.

    model: the base's with what is given put into it.
    """
    if not isinstance(given, dict) or not isinstance(given.get("slots"), list):
        return []
    sides = {
        slot.get("name"): slot.get("side")
        for slot in given["slots"]
        if isinstance(slot, dict) and slot.get("kind", "categorical") == "categorical"
    }
    inherited = [name for name in LISTS if name not in given]
    told = [sentence for name in inherited for sentence in _fit(model, name, sides)]
    named = {slot for name in LISTS for slot in _slots_of(model[name])}
    if inherited and (silent := [name for name in sides if name not in named]):
        told.append(f"no evidence, cross or statistic names {_listed(silent)}")
    return told


def _fit(model: dict[str, Any], name: str, sides: dict[Any, Any]) -> Iterator[str]:
    """Keeps of the list what fits slots of these sides; yields what to tell where it is not all."""
    kept = [member for member in model[name] if _fits(name, member, sides)]
    dropped = [member for member in model[name] if member not in kept]
    model[name] = kept
    if dropped:
        yield f"model.{name} is the base's without what does not fit these slots: {_listed(dropped)}"


def _fits(name: str, member: Any, sides: dict[Any, Any]) -> bool:
    if name == "evidence":
        return sides.get(ITEM) == "candidate" and (member == ANY or sides.get(member) == "candidate")
    return sides.keys() >= set(member)


def _slots_of(members: Any) -> Iterator[Any]:
    """The names in a list of names and of lists of them; a list of anything else is refused later."""
    for member in members if isinstance(members, list | tuple) else []:
        yield from member if isinstance(member, list | tuple) else [member]


def _listed(members: list[Any]) -> str:
    return ", ".join(map(json.dumps, members))
