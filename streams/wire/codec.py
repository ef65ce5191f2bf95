"""Bytes ↔ messages, by topic. Knows the message structs; knows nothing of Kafka but the `content-type` header.

A record without the header has its topic's own encoding. `application/msgpack` on a public topic means the
*array twin* of its struct: the same fields in the same order, without names (shorter, and faster to decode).
"""

import re
from collections.abc import Callable
from functools import cache, reduce
from operator import or_
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec
from msgspec import Struct

from streams.errors import Refused
from streams.wire.headers import CONTENT_TYPE, JSON, MSGPACK
from streams.wire.messages import Id
from streams.wire.topics import Topic

_PLACE = re.compile(r"\$(\[(\d+|\.\.\.)\])+(?=[^`]*`$)")
"""The place that msgspec names at the end of its errors: what stands before may be the sender's words."""
_INDEX = re.compile(r"\[(\d+|\.\.\.)\]")


@cache
def array_twin(struct: type[Struct]) -> type[Struct]:
    """The struct with the same fields, nested ones too, encoded as an array."""
    fields = [_twin_field(field) for field in msgspec.structs.fields(struct)]
    return msgspec.defstruct(struct.__name__ + "Array", fields, array_like=True, frozen=True, kw_only=True)


def _twin_field(field: msgspec.structs.FieldInfo) -> tuple[Any, ...]:
    kind = _twin_type(field.type)
    if field.required:
        return (field.name, kind)
    if field.default is not msgspec.NODEFAULT:
        return (field.name, kind, field.default)
    return (field.name, kind, msgspec.field(default_factory=field.default_factory))


def _twin_type(kind: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, Struct):
        return array_twin(kind)
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return Annotated[(_twin_type(args[0]), *args[1:])]
    if origin in (Union, UnionType):
        return reduce(or_, map(_twin_type, args))
    if origin in (list, dict):
        return origin[tuple(map(_twin_type, args))]
    return kind


@cache
def _json_decoder(struct: type[Struct]) -> Callable[[bytes], Any]:
    return msgspec.json.Decoder(struct).decode


@cache
def _msgpack_decoder(struct: type[Struct]) -> Callable[[bytes], Any]:
    if struct.__struct_config__.array_like:
        return msgspec.msgpack.Decoder(struct).decode
    twin = msgspec.msgpack.Decoder(array_twin(struct)).decode
    return lambda value: msgspec.convert(twin(value), struct, from_attributes=True)


_encode_json = msgspec.json.Encoder().encode
_encode_msgpack = msgspec.msgpack.Encoder().encode


def encode(topic: Topic, message: Struct, content_type: str | None = None) -> bytes:
    """The record value of a message; the caller sends `content_type` along as a header."""
    if not _is_msgpack(topic, content_type):
        return _encode_json(message)
    if message.__struct_config__.array_like:
        return _encode_msgpack(message)
    return _encode_msgpack(msgspec.convert(message, array_twin(type(message)), from_attributes=True))


def decode(topic: Topic, value: bytes | None, content_type: str | None = None) -> Any:
    """The message in a record's value: an instance of `topic.message`.

    Raises Refused with the reason, naming the field, if the value is not one such message within its bounds.
    """
    if topic.message is None:
        raise ValueError(f"{topic.name} has its own codec")
    if value is None:
        raise Refused("a message is required, got a record without a value")
    if len(value) > topic.max_bytes:
        raise Refused(f"a record of {topic.name} must be at most {topic.max_bytes} bytes, got {len(value)}")
    decoder = _msgpack_decoder if _is_msgpack(topic, content_type) else _json_decoder
    try:
        return decoder(topic.message)(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # ValidationError is a DecodeError; a string that is not UTF-8 raises UnicodeDecodeError by itself.
        reason = _PLACE.sub(lambda place: _named(topic.message, place[0]), str(error))
        raise Refused(f"not a {topic.message.__name__}: {reason}") from error


def _named(kind: Any, place: str) -> str:
    """Puts field names into a place in nested arrays: `$[2][0][2]` of a request is `$.candidates[0].bid`."""
    named = "$"
    for index in _INDEX.findall(place):
        kind = _holder(kind)
        if get_origin(kind) is None:
            field = msgspec.structs.fields(kind)[int(index)]
            named, kind = f"{named}.{field.name}", field.type
        else:
            named, kind = f"{named}[{index}]", get_args(kind)[-1]
    return named


def _holder(kind: Any) -> Any:
    """The struct, list or dict among a type's alternatives; None where there is none."""
    if isinstance(kind, type) and issubclass(kind, Struct):
        return kind
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _holder(args[0])
    if origin in (Union, UnionType):
        return next(filter(None, map(_holder, args)), None)
    return kind if origin in (list, dict) else None


def _is_msgpack(topic: Topic, content_type: str | None) -> bool:
    if content_type is None:
        return topic.encoding == "msgpack"
    # Internal topics have one form: what is kept of them is read again without its header.
    allowed = (MSGPACK,) if topic.encoding == "msgpack" else (JSON, MSGPACK)
    if content_type in allowed:
        return content_type == MSGPACK
    raise Refused(f"{CONTENT_TYPE} of {topic.name} must be {' or '.join(allowed)}, got {content_type[:100]!r}")


class _Address(Struct):
    """As much of a request as an error response needs."""

    request_id: Id
    user: Any = ""
    """Whatever was sent: a request is often refused because of it."""


class _AddressArray(Struct, array_like=True):
    request_id: Id
    user: Any = ""


def address_of(value: bytes, content_type: str | None) -> _Address | _AddressArray | None:
    """Reads whose request it is from bytes that need not be a valid one; None where even that cannot be read."""
    try:
        if content_type == MSGPACK:
            return msgspec.msgpack.decode(value, type=_AddressArray)
        return msgspec.json.decode(value, type=_Address)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
