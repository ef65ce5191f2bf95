"""A recipe as text: its settings as TOML, what two differ in, and a reference of all there are."""

import ast
import dataclasses
import inspect
import json
import sys
import textwrap
import typing
from collections.abc import Iterator
from typing import Any

from streams.config.load import to_table
from streams.config.recipe import Recipe


def settings(recipe: Recipe) -> dict[str, str]:
    """Every setting that has a value, by its dotted name, as TOML writes it; lists of tables are one setting."""
    return dict(_settings(to_table(recipe), ""))


def _settings(table: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _settings(value, f"{path}{name}.")
        elif value is not None:
            yield path + name, toml_value(value)


def toml_value(value: Any) -> str:
    """Returns the value as TOML writes it: tables inline, lists of tables a line each. None is left out of tables."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml_value(v)}" for k, v in value.items() if v is not None) + "}"
    if isinstance(value, list | tuple):
        rows = all(isinstance(v, dict) for v in value) and len(value) > 0
        inner = map(toml_value, value)
        return "[\n  " + ",\n  ".join(inner) + ",\n]" if rows else f"[{', '.join(inner)}]"
    return json.dumps(value)


def difference(one: Recipe, other: Recipe) -> list[tuple[str, str, str]]:
    """(setting, its value in one, its value in the other) where these differ; "–" where it has none."""
    left, right = settings(one), settings(other)
    names = [*left, *(name for name in right if name not in left)]
    return [(n, left.get(n, "–"), right.get(n, "–")) for n in names if left.get(n) != right.get(n)]


def reference() -> str:
    """All settings as Markdown: a table for each part of a recipe, from the fields and their docstrings."""
    lines = [
        "# Settings of a recipe",
        "",
        "Made from the code by `tiderank recipe reference`; a test keeps it current. Defaults are those of the fields;",
        "`tiderank recipe show --recipe NAME` prints what a built-in recipe or a file makes of them.",
    ]
    for path, kind in _parts(Recipe, ""):
        lines += ["", f"## {f'`[{path}]`' if path else 'At the top'}", "", *_summary(kind)]
        lines += ["| setting | type | default | |", "|---|---|---|---|", *_rows(kind)]
    return "\n".join(lines) + "\n"


def _parts(kind: type, path: str) -> Iterator[tuple[str, type]]:
    """A dataclass, and those that its fields are or are lists of, each with its place in TOML."""
    yield path, kind
    for name, hint in _hints(kind).items():
        inner = [t for t in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(t)]
        for part in inner[:1]:
            place = f"{path}.{name}" if path else name
            yield from _parts(typing.cast(type, part), place if part is hint else f"[{place}]")


def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind, vars(sys.modules[kind.__module__]))


def _summary(kind: type) -> list[str]:
    said = inspect.getdoc(kind) or ""
    return [] if said.startswith(f"{kind.__name__}(") or not said else [said.split("\n\n")[0].replace("\n", " "), ""]


def _rows(kind: type) -> Iterator[str]:
    said = _docstrings(kind)
    hints = _hints(kind)
    for field in dataclasses.fields(kind):
        if not dataclasses.is_dataclass(hints[field.name]):
            words = said.get(field.name, "").replace("|", "\\|")
            yield f"| `{field.name}` | {_type(hints[field.name])} | {_default(field)} | {words} |"


def _type(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(f"`{json.dumps(choice)}`" for choice in typing.get_args(hint))
    name = getattr(hint, "__name__", str(hint)) if not typing.get_args(hint) else str(hint)
    return "`" + name.replace("typing.", "").replace("|", "\\|") + "`" if "Literal" not in name else "`str`"


def _default(field: "dataclasses.Field[Any]") -> str:
    value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if value is dataclasses.MISSING:
        return "needed"
    if value is None:
        return "none"
    if dataclasses.is_dataclass(value) or (isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0])):
        return ""
    return f"`{toml_value(value)}`"


def _docstrings(kind: type) -> dict[str, str]:
    """By field, the string that stands below it."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for above, below in zip(body.body, body.body[1:], strict=False):
        text = below.value if isinstance(below, ast.Expr) else None
        if isinstance(above, ast.AnnAssign) and isinstance(above.target, ast.Name) and isinstance(text, ast.Constant):
            found[above.target.id] = " ".join(str(text.value).split())
    return found
