"""From and to TOML: a file changes fields of a built-in recipe (`base = "default"`) or of a log's (`base = "log:LOG"`).

Every field that a file names must exist: a misspelt setting is an error, not a default.
"""

import tomllib
from pathlib import Path
from typing import Any

import msgspec

from streams.config.builtin import LOG_PREFIX, RECIPES
from streams.config.mistakes import allowed, check_crosses, unknown, wild
from streams.config.recipe import Recipe
from streams.config.slots import fit_slots
from streams.errors import StartError


def load_recipe(name: str) -> Recipe:
    """The built-in recipe of that name, the one in the TOML file at that path, or that of a log. Raises StartError."""
    return load_with_notes(name)[0]


def load_with_notes(name: str) -> tuple[Recipe, list[str]]:
    """As load_recipe; with it what its reader should know of lists that the file has from its base."""
    path = Path(name)
    try:
        if (recipe := _named(name)) is not None:
            return recipe, []
    except ValueError as error:
        raise StartError(str(error)) from error
    if path.suffix != ".toml":
        raise StartError(f"a recipe is one of {sorted(RECIPES)}, a .toml file or log:LOG, got {name!r}")
    if not path.is_file():
        raise StartError(f"no file at {name}; a recipe is one of {sorted(RECIPES)}, a .toml file or log:LOG")
    try:
        return _made(tomllib.loads(path.read_text()), default_name=path.stem, folder=path.parent)
    except (ValueError, TypeError) as error:  # tomllib's and msgspec's errors are ValueErrors
        raise StartError(f"{path}: {error}") from error


def from_table(table: dict[str, Any], *, default_name: str = "custom", folder: Path | None = None) -> Recipe:
    """The recipe of a parsed file. Raises ValueError naming the field that is unknown or wrong.

    folder: where the file is; the mapping of a log that is its base is looked for there first.
    """
    return _made(table, default_name=default_name, folder=folder)[0]


def to_table(recipe: Recipe) -> dict[str, Any]:
    """What from_table reads, as plain values."""
    return msgspec.to_builtins(recipe)  # type: ignore[no-any-return]


def _made(given: dict[str, Any], *, default_name: str, folder: Path | None) -> tuple[Recipe, list[str]]:
    table = {name: value for name, value in given.items() if name != "base"}
    base = _base(given.get("base", "default"), folder)
    if bad := wild(table):
        raise ValueError(f"numbers must be finite and within ±2^53, which {', '.join(bad)} is not")
    model = table.get("model")
    check_crosses(model)
    merged = _merge(msgspec.to_builtins(base), {"name": default_name} | table)
    notes = fit_slots(merged["model"], model)
    try:
        recipe: Recipe = msgspec.convert(merged, Recipe, strict=True)
    except msgspec.ValidationError as error:
        raise ValueError(allowed(str(error), Recipe)) from error
    if strange := unknown(table, to_table(recipe)):
        raise ValueError(f"no such settings: {', '.join(strange)}")
    return recipe, notes


def _base(name: Any, folder: Path | None) -> Recipe:
    if isinstance(name, str):
        mapping = name.removeprefix(LOG_PREFIX)
        if folder is not None and name.startswith(LOG_PREFIX) and mapping.endswith(".toml"):
            places = [path for path in (folder / mapping, Path(mapping)) if path.is_file()]
            if not places:
                raise ValueError(f"no column mapping {mapping}: neither in {folder}, where this file is, nor here")
            name = f"{LOG_PREFIX}{places[0]}"
        if (recipe := _named(name)) is not None:
            return recipe
    raise ValueError(f"base must be one of {sorted(RECIPES)} or log:LOG (of a file log:MAPPING.toml), got {name!r}")


def _named(name: str) -> Recipe | None:
    """The recipe that needs no file of its own, if this is the name of one. Raises ValueError where its log is none."""
    if name in RECIPES:
        return RECIPES[name]()
    if not name.startswith(LOG_PREFIX):
        return None
    from streams.config.logged import log_recipe  # what reads logs is only needed here

    return log_recipe(name.removeprefix(LOG_PREFIX))


def _merge(old: Any, new: Any) -> Any:
    """Tables are merged, everything else (a list too) is replaced."""
    if isinstance(old, dict) and isinstance(new, dict):
        return old | {name: _merge(old.get(name), value) for name, value in new.items()}
    return new
