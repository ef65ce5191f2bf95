"""From and to TOML: a file changes fields of a built-in recipe (`base = "default"`).

Every field that a file names must exist: a misspelt setting is an error, not a default.
"""

import tomllib
from pathlib import Path
from typing import Any

import msgspec

from ranker.config import ITEM
from streams.config.builtin import RECIPES
from streams.config.recipe import Recipe
from streams.errors import StartError


def load_recipe(name: str) -> Recipe:
    """The built-in recipe of that name, the one in the TOML file at that path, or that of a log. Raises StartError."""
    if name in RECIPES:
        return RECIPES[name]()
    if name.startswith("log:"):
        from streams.config.logged import log_recipe  # what reads logs is only needed here

        try:
            return log_recipe(name.removeprefix("log:"))
        except ValueError as error:
            raise StartError(str(error)) from error
    path = Path(name)
    if path.suffix != ".toml" or not path.is_file():
        raise StartError(f"a recipe is one of {sorted(RECIPES)}, a .toml file or log:LOG, got {name!r}")
    try:
        return from_table(tomllib.loads(path.read_text()), default_name=path.stem)
    except (ValueError, TypeError) as error:  # tomllib's and msgspec's errors are ValueErrors
        raise StartError(f"{path}: {error}") from error


def from_table(table: dict[str, Any], *, default_name: str = "custom") -> Recipe:
    """The recipe of a parsed file. Raises ValueError naming the field that is unknown or wrong."""
    base_name = table.pop("base", "default")
    if base_name not in RECIPES:
        raise ValueError(f"base must be one of {sorted(RECIPES)}, got {base_name!r}")
    base = RECIPES[base_name]()
    if wild := _wild(table):
        raise ValueError(f"numbers must be finite and within ±2^53, which {', '.join(wild)} is not")
    merged = _merge(msgspec.to_builtins(base), {"name": default_name} | table)
    _fit_slots(merged, table)
    recipe: Recipe = msgspec.convert(merged, Recipe, strict=True)
    if unknown := _unknown(table, to_table(recipe)):
        raise ValueError(f"no such settings: {', '.join(unknown)}")
    return recipe


def to_table(recipe: Recipe) -> dict[str, Any]:
    """What from_table reads, as plain values."""
    return msgspec.to_builtins(recipe)  # type: ignore[no-any-return]


def _wild(value: Any, path: str = "") -> list[str]:
    """Paths of numbers that no comparison or other program would take as they are: TOML has nan, and any integer."""
    if isinstance(value, dict):
        return [wild for name, inner in value.items() for wild in _wild(inner, f"{path}.{name}" if path else name)]
    if isinstance(value, list):
        return [wild for place, inner in enumerate(value) for wild in _wild(inner, f"{path}[{place}]")]
    return [path] if isinstance(value, int | float) and not abs(value) <= 2**53 else []


def _merge(old: Any, new: Any) -> Any:
    """Tables are merged, everything else (a list too) is replaced."""
    if isinstance(old, dict) and isinstance(new, dict):
        return old | {name: _merge(old.get(name), value) for name, value in new.items()}
    return new


def _fit_slots(merged: dict[str, Any], given: dict[str, Any]) -> None:
    """Where a file replaces the slots and names no evidence, crosses or statistics, the base's are of those still
    there."""
    model = given.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("slots"), list):
        return
    categorical = {
        slot.get("name"): slot.get("side")
        for slot in model["slots"]
        if isinstance(slot, dict) and slot.get("kind", "categorical") == "categorical"
    }
    if "evidence" not in model:
        kept = [name for name in merged["model"]["evidence"] if categorical.get(name) == "candidate"]
        merged["model"]["evidence"] = kept if categorical.get(ITEM) == "candidate" else []
    for crossed in {"crosses", "statistics"} - model.keys():
        merged["model"][crossed] = [c for c in merged["model"][crossed] if categorical.keys() >= set(c)]


def _unknown(given: Any, taken: Any, where: str = "") -> list[str]:
    """What was given and is nowhere in what was made of it."""
    if isinstance(given, dict) and isinstance(taken, dict):
        missing = [where + name for name in given if name not in taken]
        return missing + [
            u for name in given if name in taken for u in _unknown(given[name], taken[name], f"{where}{name}.")
        ]
    if isinstance(given, list) and isinstance(taken, list | tuple):
        return [u for g, t in zip(given, taken, strict=False) for u in _unknown(g, t, where)]
    return []
