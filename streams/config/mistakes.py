"""What is wrong with a recipe's file, in words that say how to mend it."""

import dataclasses
import difflib
import json
import re
import types
import typing
from collections.abc import Iterable
from typing import Any


def wild(value: Any, path: str = "") -> list[str]:
    """Paths of numbers that no comparison or other program would take as they are: TOML has nan, and any integer."""
    if isinstance(value, dict):
        return [found for name, inner in value.items() for found in wild(inner, f"{path}.{name}" if path else name)]
    if isinstance(value, list):
        return [found for place, inner in enumerate(value) for found in wild(inner, f"{path}[{place}]")]
    return [path] if isinstance(value, int | float) and not abs(value) <= 2**53 else []


def unknown(given: Any, taken: Any, where: str = "") -> list[str]:
    """What was given and is nowhere in what was made of it, with the nearest name there is where one is near."""
    if isinstance(given, dict) and isinstance(taken, dict):
        missing = [where + name + _hint(name, taken) for name in given if name not in taken]
        return missing + [
            u for name in given if name in taken for u in unknown(given[name], taken[name], f"{where}{name}.")
        ]
    if isinstance(given, list) and isinstance(taken, list | tuple):
        return [u for g, t in zip(given, taken, strict=False) for u in unknown(g, t, where)]
    return []


def _hint(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def check_crosses(model: Any) -> None:
    """Raises ValueError where a file's table `model` gives one list of slots for a list of such lists."""
    for name in ("crosses", "statistics") if isinstance(model, dict) else ():
        members = model.get(name)
        if isinstance(members, list) and members and all(isinstance(member, str) for member in members):
            alone = [[member] for member in members]
            raise ValueError(
                f"model.{name} must be a list of lists of slots, got {json.dumps(members)}: write "
                f"{json.dumps([members])} for these together, {json.dumps(alone)} for each alone"
            )


def allowed(message: str, kind: type) -> str:
    """Returns msgspec's message on what does not fit `kind`; of a word that is not one of a few, with those few."""
    found = re.fullmatch(r"Invalid enum value .* - at `\$(.*)`", message, re.DOTALL)
    if found is None:
        return message
    words = _words(kind, re.findall(r"\.(\w+)|\[", found[1]))
    return f"{message}: must be one of {', '.join(json.dumps(word) for word in words)}"


def _words(hint: Any, path: list[str]) -> list[Any]:
    """Values of the Literal at a path of names of fields, "" being a member of a list or a table."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [word for part in typing.get_args(hint) for word in _words(part, path)]
    if typing.get_origin(hint) is typing.Literal and not path:
        return list(typing.get_args(hint))
    if not path:
        return []
    if path[0]:
        return _words(typing.get_type_hints(hint)[path[0]], path[1:]) if dataclasses.is_dataclass(hint) else []
    return [word for part in typing.get_args(hint) for word in _words(part, path[1:])]
