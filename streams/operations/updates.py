"""`tiderank updates tail`: the log of the weights, readably."""

import json
import signal
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from streams.config.settings import BOOTSTRAP, required
from streams.options import json_option
from streams.wire.record import Record
from streams.wire.topics import UPDATES

if TYPE_CHECKING:
    from ranker.updates.record import Record as Decoded
    from streams.kafka.connection import Kafka


@click.group("updates")
def updates_command() -> None:
    """The log of the weights, model.updates."""


@updates_command.command("tail")
@click.option("--last", type=click.IntRange(min=0), default=20, show_default=True, help="Records that are there.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@json_option
def tail(last: int, follow: bool, as_json: bool) -> None:
    """Print records: what each one is, whose, how large, and what it changes.

    A row of a table is a key with its weights, a tail row one that keys share by hash. `dense` counts a tier's own
    tensors. An update of several parts is applied when all of them are there.
    """
    from streams.kafka.connection import Kafka

    # A pipe that closes (`| head`) ends this as it ends other filters.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    for record in records(Kafka.from_environment(required(BOOTSTRAP, "the broker's host:port")), last, follow=follow):
        found = describe(record)
        click.echo(json.dumps(found) if as_json else line(found))


def records(kafka: "Kafka", last: int, *, follow: bool) -> Iterator[Record]:
    """The newest `last` that are there, in order; then, if asked to, what comes."""
    from streams.kafka.connection import watermarks
    from streams.kafka.update_reader import UpdateReader

    kafka.partitions(UPDATES)  # that the topic is there, or why not
    with closing(kafka.reader()) as probe:
        first, end = watermarks(probe, UPDATES, 0)
    with closing(UpdateReader(kafka, start=max(first, end - last))) as reader:
        while follow or not reader.at_end:
            yield from reader.poll(64, timeout_s=0.2)


def describe(record: Record) -> dict[str, Any]:
    """As plain values. Sizes are bytes; `kind` is open, update or unreadable."""
    from ranker.updates.record import DamagedRecord, MalformedRecord, Open, decode_record

    data = record.value or b""
    found: dict[str, Any] = {"offset": record.offset, "at_ms": record.timestamp_ms, "bytes": len(data)}
    try:
        decoded = decode_record(data)
    except DamagedRecord as error:
        header = error.header
        return found | {"kind": "unreadable", "epoch": header.epoch, "trainer": header.trainer, "why": str(error)}
    except MalformedRecord as error:
        return found | {"kind": "unreadable", "why": str(error)}
    header = decoded.header
    found |= {"epoch": header.epoch, "trainer": header.trainer, "model": header.digest}
    if isinstance(header, Open):
        return found | {"kind": "open", "builds_on": header.base}
    return found | {
        "kind": "update",
        "number": header.number,
        "part": header.part,
        "parts": header.parts,
        "new_model": header.reset,
        "learned_offsets": header.offsets,
        "watermark_ms": header.watermark_ms,
        "key_ranges": header.ranges,
        "tables": _tables(decoded),
        "dense": _dense(decoded),
    }


def _tables(decoded: "Decoded") -> dict[str, dict[str, Any]]:
    tables: dict[str, dict[str, Any]] = {}
    for name, tensor in sorted(decoded.tensors.items()):
        kind, _, rest = name.partition("/")
        table, _, column = rest.rpartition("/")
        if kind not in {"rows", "tails", "evicted"}:
            continue
        found = tables.setdefault(table, {"rows": 0, "tails": 0, "evicted": 0, "bytes": 0})
        found["bytes"] += tensor.nbytes
        if column == {"rows": "keys", "tails": "rows", "evicted": "keys"}[kind]:
            found[kind] = len(tensor)
        if column == "values":
            found["encoding"] = _short(tensor.dtype)
    return dict(sorted(tables.items()))


def _dense(decoded: "Decoded") -> dict[str, Any]:
    tensors = {name: t for name, t in decoded.tensors.items() if name.startswith(("dense/", "dense_scales/"))}
    encodings: dict[str, int] = {}
    for name, tensor in tensors.items():
        if name.startswith("dense/"):
            encodings[_short(tensor.dtype)] = encodings.get(_short(tensor.dtype), 0) + 1
    return {"tensors": sum(encodings.values()), "bytes": sum(t.nbytes for t in tensors.values()), "by": encodings}


def _short(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")


def line(found: dict[str, Any]) -> str:
    """One record of `describe`, for people."""
    clock = datetime.fromtimestamp(found["at_ms"] / 1000, UTC).strftime("%H:%M:%S.%f")[:-3]
    start = f"{found['offset']:>8}  {clock}  {found['bytes']:>9,} B  "
    if found["kind"] == "unreadable":
        return f"{start}unreadable: {found['why']}"
    start += f"epoch {found['epoch']} "
    if found["kind"] == "open":
        base = "nothing" if found["builds_on"] is None else "epoch {}, update {}".format(*found["builds_on"])
        return f"{start}open    by {found['trainer']}, model {found['model']}, builds on {base}"
    part = f" part {found['part'] + 1}/{found['parts']}" if found["parts"] > 1 else ""
    tables = [_table_text(name, table) for name, table in found["tables"].items() if any(table.values())]
    dense = found["dense"]
    if dense["tensors"]:
        kinds = ", ".join(f"{count} {encoding}" for encoding, count in sorted(dense["by"].items()))
        tables.append(f"dense {kinds} ({dense['bytes']:,} B)")
    new = "  a new model" if found["new_model"] else ""
    return f"{start}update {found['number']}{part}{new}  {'; '.join(tables) or 'no change'}"


def _table_text(name: str, table: dict[str, Any]) -> str:
    counts = [f"{table[kind]} {word}" for kind, word in (("rows", "rows"), ("tails", "tail rows")) if table[kind]]
    gone = [f"{table['evicted']} evicted"] if table["evicted"] else []
    encoding = f" {table['encoding']}" if table.get("encoding") and counts else ""
    return (
        f"{name} {' + '.join(counts)}{encoding}{', ' if counts and gone else ''}{''.join(gone)} ({table['bytes']:,} B)"
    )
