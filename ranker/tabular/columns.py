"""What the columns of a table are: categories, numbers, or nothing that a model could learn from.

A column is told by its type, its name and its values; what was found is for a person to see, and to overrule. Knows
Arrow; knows nothing of torch.
"""

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat

from ranker.arrays import F64, I64
from ranker.tabular.plain import plain

Kind = Literal["categorical", "numeric", "dropped"]

FEW = 100
"""Integers of at most so many values are categories: hours, ages, slots."""
ID_SHARE = 0.9
"""Categories numbering more than this share of the rows are an id of the rows: they could only be memorized."""
_ID_WORDS = {"id", "ids", "uid", "uuid", "guid", "user", "item", "ad", "code", "zip", "zipcode", "hash"}
"""The last word of a name like user_id or zipCode."""
_EXACT = 2**53
"""Beyond it a float64 skips integers."""
_WHOLE_FLOAT = r"^(-?(?:0|[1-9]\d*))\.0$"
"""As tools write an integer in a column that has nulls too."""
_OVERDISPERSED = 3.0
"""Median of (c1 - c2)² / (c1 + c2) over neighbouring values' counts: 0.45 for a smooth density, far more for ids."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a column is taken for, and why."""

    name: str
    kind: Kind
    reason: str


def find_columns(
    table: Any,
    *,
    label: str,
    categorical: Collection[str] = (),
    numeric: Collection[str] = (),
    ignore: Collection[str] = (),
) -> list[Found]:
    """Each column of a pyarrow.Table but the label and those to ignore, in the table's order.

    Raises ValueError where a named column is missing or named twice, or where no column is left to learn from.
    """
    _check_names(table.column_names, label, {"categorical": categorical, "numeric": numeric, "ignore": ignore})
    found = []
    for name in table.column_names:
        if name == label or name in ignore:
            continue
        values = plain(table[name], name)
        if name in categorical:
            kind: tuple[Kind, str] = "categorical", "as told"
        elif name in numeric:
            kind = "numeric", "as told"
        else:
            kind = _detect(name, values)
        found.append(Found(name, *_useless(values, kind[0]) or kind))
    if all(column.kind == "dropped" for column in found):
        reasons = "; ".join(f"{c.name}: {c.reason}" for c in found) or "there is none beside the label"
        raise ValueError(f"no column is left to learn from ({reasons})")
    return found


def texts(values: Any, name: str) -> Any:
    """The categories of a column as a string array: null where missing (empty text and NaN too).

    Whole floats read as integers do, be they numbers or text ("7.0"), so that a file in which a null made floats of
    them means the same. Raises ValueError for nested and binary columns, and for integers that lost digits as floats.
    """
    values = plain(values, name)
    _refuse_lost_digits(values, name)
    if pat.is_floating(values.type):
        whole = _whole(values)
        values = pc.if_else(pc.is_nan(values), None, values) if whole is None else whole
    strings = values.cast(pa.string())
    if strings.type == values.type:
        strings = pc.replace_substring_regex(strings, _WHOLE_FLOAT, r"\1")
    return pc.if_else(pc.equal(strings, ""), None, strings)


HUGE = 1e30
"""Larger numbers are no measurements but placeholders, and their squares overflow: they count as infinite."""


def numbers(values: Any, name: str) -> F64:
    """[n] of a column as numbers, NaN where missing, infinite or beyond HUGE.

    Times are seconds, since 1970 or since midnight, and so are durations. Raises ValueError where a value is no number.
    """
    values, scale = plain(values, name), 1.0
    if pat.is_string(values.type):
        values = pc.utf8_trim_whitespace(texts(values, name))
    elif _clock(values.type):
        values, scale = _ticks(values)
    try:
        cast = values.cast(pa.float64(), safe=False)  # and so is what a float rounds away
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"column {name!r} was to hold numbers: {error}; name it under categorical") from error
    array: F64 = cast.to_numpy(zero_copy_only=False).astype(np.float64) * scale
    return np.where(np.abs(array) <= HUGE, array, np.nan)


def lost_digits(values: Any) -> bool:
    """Floats that must have been 64-bit integers: all are whole, and some so large that their last digits are gone."""
    if not pat.is_floating(values.type):
        return False
    known = values.drop_null().to_numpy()
    known = known[~np.isnan(known)]
    return bool(len(known) and _EXACT < np.abs(known).max() <= 2.0**64 and (known == np.floor(known)).all())


def _refuse_lost_digits(values: Any, name: str) -> None:
    if lost_digits(values):
        raise ValueError(
            f"column {name!r} holds whole numbers beyond 2^53 that came as floats, so their last digits are lost: "
            "write ids as integers or text; if they are amounts, name it under numeric"
        )


def _clock(kind: Any) -> str | None:
    """What a type of time is called."""
    if pat.is_date(kind) or pat.is_timestamp(kind):
        return "times"
    return "times of day" if pat.is_time(kind) else "durations" if pat.is_duration(kind) else None


def _ticks(values: Any) -> tuple[Any, float]:
    """Times as integers, and how many seconds one is. Not by way of Arrow's own units: those of far years wrap."""
    kind = values.type
    ticks = values.cast(pa.int32() if kind.bit_width == 32 else pa.int64())
    if pat.is_date(kind):
        return ticks, 86_400.0 if pat.is_date32(kind) else 1e-3
    if kind.unit == "ns":  # what is finer than a microsecond is nothing to a model
        return pc.divide(ticks, 1000), 1e-6
    return ticks, {"s": 1.0, "ms": 1e-3, "us": 1e-6}[kind.unit]


def check_unique(names: list[str]) -> None:
    """Raises ValueError where two columns have one name."""
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        raise ValueError(f"column names must be unique, got several of {twice}: rename or remove all but one")


def _check_names(present: list[str], label: str, told: dict[str, Collection[str]]) -> None:
    check_unique(present)
    if label not in present:
        raise ValueError(f"no column {label!r} for the label; there are {present}")
    named = [label, *(name for names in told.values() for name in names)]
    for role, names in told.items():
        if missing := sorted(set(names) - set(present)):
            raise ValueError(f"{role} names columns {missing} that are not there; there are {present}")
    if twice := {name for name in named if named.count(name) > 1}:
        raise ValueError(f"columns {sorted(twice)} are given two roles (label, categorical, numeric, ignore): keep one")


def _detect(name: str, values: Any) -> tuple[Kind, str]:
    kind = values.type
    if clock := _clock(kind):
        return "numeric", f"{clock}, as seconds"
    _refuse_lost_digits(values, name)
    if pat.is_floating(kind):
        whole = _whole(values)
        if whole is None:
            return "numeric", "fractions"
        values = whole
    if not pat.is_integer(values.type):
        return "categorical", str(kind)
    return _detect_integers(name, values)


def _detect_integers(name: str, values: Any) -> tuple[Kind, str]:
    distinct, counts = np.unique(_integers(values), return_counts=True)
    if len(distinct) <= FEW:
        return "categorical", f"integers of {len(distinct)} values"
    if distinct[-1] > _EXACT or distinct[0] < -_EXACT:
        return "categorical", "integers beyond 2^53: ids, of which a number would lose the last digits"
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)
    if words and words[-1].lower() in _ID_WORDS:
        return "categorical", "integers, an id by its name"
    before, after = counts[:-1], counts[1:]
    seen_often = before + after >= 10  # fewer say nothing about a density
    if seen_often.sum() >= 20:
        spread = float(np.median((before - after)[seen_often] ** 2 / (before + after)[seen_often]))
        if spread > _OVERDISPERSED:
            return "categorical", "integers whose counts jump from one to the next, as those of ids do"
    return "numeric", f"integers of {len(distinct)} values"


def _useless(values: Any, kind: Kind) -> tuple[Kind, str] | None:
    """Why the column is dropped, if it is."""
    distinct = len(pc.unique(values.drop_null()))
    if distinct + bool(values.null_count) <= 1:
        return "dropped", "constant"
    known = len(values) - values.null_count
    if kind == "categorical" and distinct > max(FEW, ID_SHARE * known):
        return "dropped", f"{distinct} categories in {known} rows: an id of the rows, which could only be memorized"
    if kind == "numeric" and distinct == len(values) > FEW and pat.is_integer(values.type):
        ends = pc.min_max(values).as_py()
        if ends["max"] - ends["min"] + 1 == distinct:
            return "dropped", "consecutive integers, each once: a row number"
    return None


def _whole(values: Any) -> Any | None:
    """Floats as integers, NaN as null; None where there are fractions, infinities or nothing at all."""
    known = pc.if_else(pc.is_nan(values), None, values)
    if known.null_count == len(known):
        return None
    try:
        return known.cast(pa.int64())
    except pa.ArrowInvalid:
        return None


def _integers(values: Any) -> I64:
    array: I64 = values.drop_null().cast(pa.int64()).combine_chunks().to_numpy(zero_copy_only=False)
    return array
