"""Arrow's types made plain: booleans, integers, floats, text, and points and lengths of time.

Files hold the same values in many types: text as string, large_string, string_view or dictionary; numbers as decimals
or half floats; ids as UUIDs. All that reads a column has it made plain first, so that no reader has rules of its own.
"""

from collections.abc import Collection
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat

_INT64_MAX = 2**63 - 1


def plain(values: Any, name: str, null_words: Collection[str] = ()) -> Any:
    """A column in a plain type; a text that is one of `null_words` is null. What is plain already costs nothing.

    Whole decimals are integers, others floats. Integers that int64 does not hold are text, digit by digit.
    Raises ValueError for a type that cannot be made plain: lists, structures, raw bytes.
    """
    try:
        values = _unwrapped(values)
        kind = _plain_type(values)
        if kind is not None and kind != values.type:
            values = values.cast(kind)
    except pa.ArrowException as error:
        raise ValueError(
            f"column {name!r} is of type {values.type}, and cannot be read as a plain one: {error}"
        ) from error
    if kind is None:
        raise ValueError(
            f"column {name!r} is of type {values.type}, neither a number, a time nor a text: "
            "flatten it or write it as text, or leave it out"
        )
    if null_words and pat.is_string(kind):
        values = pc.if_else(pc.is_in(values, value_set=pa.array(null_words, pa.string())), None, values)
    return values


def is_list(kind: Any) -> bool:
    return bool(pat.is_list(kind) or pat.is_large_list(kind) or pat.is_fixed_size_list(kind))


def _unwrapped(values: Any) -> Any:
    """Dictionaries, run lengths and extension types as what they stand for."""
    kind = values.type
    if not (pat.is_dictionary(kind) or pat.is_run_end_encoded(kind) or isinstance(kind, pa.BaseExtensionType)):
        return values
    if isinstance(values, pa.ChunkedArray):
        chunks = [_unwrapped(chunk) for chunk in values.chunks or [pa.nulls(0, kind)]]
        return pa.chunked_array(chunks)
    if pat.is_dictionary(kind):
        words = _unwrapped(values.dictionary)
        if pat.is_string_view(words.type):  # Arrow takes from no views
            words = words.cast(pa.string())
        return words.take(values.indices)
    if pat.is_run_end_encoded(kind):
        return pc.run_end_decode(values)
    return _uuid_texts(values.storage) if kind == pa.uuid() else _unwrapped(values.storage)


def _plain_type(values: Any) -> Any | None:
    kind = values.type
    if pat.is_null(kind) or pat.is_large_string(kind) or pat.is_string_view(kind):
        return pa.string()
    if pat.is_decimal(kind):
        return _whole_type(values) if kind.scale <= 0 else pa.float64()
    if pat.is_float16(kind):
        return pa.float64()
    if pat.is_uint64(kind) and (pc.max(values).as_py() or 0) > _INT64_MAX:
        return pa.string()
    is_plain = pat.is_boolean, pat.is_integer, pat.is_floating, pat.is_string, pat.is_temporal
    return kind if any(is_kind(kind) for is_kind in is_plain) and not pat.is_interval(kind) else None


def _whole_type(values: Any) -> Any:
    """int64 for whole decimals that it holds, else text."""
    ends = pc.min_max(values).as_py()
    return pa.int64() if max(abs(ends["min"] or 0), abs(ends["max"] or 0)) <= _INT64_MAX else pa.string()


def _uuid_texts(storage: Any) -> Any:
    """binary(16) as the 36 characters of a UUID."""
    digits = pa.array([value and value.hex() for value in storage.to_pylist()], pa.string())
    return pc.replace_substring_regex(digits, "^(.{8})(.{4})(.{4})(.{4})", r"\1-\2-\3-\4-")
