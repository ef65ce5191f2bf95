"""`tiderank plan-embeddings`: how large the model's tables should be, from what ranking saw or from a file."""

import json
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import click
import numpy as np

from ranker.config import ModelConfig, TableConfig
from ranker.inputs.hashing import hash64, salted
from ranker.planning.plan import Plan, PlannedSlot, PlannedTable, SlotCounts, capacity_for, plan_tables
from streams.config.settings import BOOTSTRAP, named_recipe, required
from streams.datasets.options import TableOptions
from streams.errors import Refused, StartError
from streams.options import Finite, recipe_option, table_options, tables
from streams.wire.messages import Served
from streams.wire.topics import SERVED, TOPICS
from streams.workers.train.examples import served_request

_MIB = 1 << 20
_BATCH = 512
_OPTIONS = TableOptions()
_HEADER = (
    "slot",
    "table",
    "keys",
    "occurrences",
    "90 % in",
    "covered",
    "rows",
    "tail rows",
    "MiB",
    "in tail",
    "shared",
)
_OTHER_COLUMNS = "shared"
"""The table of a file's columns that the recipe does not name."""


@click.command("plan-embeddings")
@click.option("--from", "source", default="kafka", show_default=True, metavar="kafka|FILE")
@click.option("--budget-mb", type=Finite(min=0, min_open=True), default=64.0, show_default=True)
@click.option("--min-count", type=click.IntRange(min=1), default=2, show_default=True, help="A rarer key gets no row.")
@click.option("--width", type=click.IntRange(min=1), help="Width of an embedding.  [default: the recipe's]")
@click.option("--column", "columns", multiple=True, help="Column of a file to plan for.  [default: all categories]")
@click.option("--skip", multiple=True, help="Column of a file to leave out: the label, a time.")
@table_options
@click.option("--toml", "as_toml", is_flag=True, help="Print the tables of a recipe, to be pasted.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object last.")
@recipe_option
def plan_embeddings_command(
    source: str,
    budget_mb: float,
    min_count: int,
    width: int | None,
    columns: tuple[str, ...],
    skip: tuple[str, ...],
    null_words: tuple[str, ...],
    encoding: str | None,
    as_toml: bool,
    as_json: bool,
    recipe: str | None,
) -> None:
    """Size the embedding tables under a memory budget, from the cardinality and occurrences of each slot.

    From Kafka: all that `ranking.served` holds, with the slots and tables of the recipe. From a Parquet or CSV file, a
    path or URL: each column is a slot, in the table that the recipe gives a slot of that name, or in "shared". The
    budget, in MiB, is of the trainer: weights, optimizer state, key map, order of use; a ranking process holds less.
    """
    model = named_recipe(recipe).model
    width, budget_bytes = width or model.width, round(budget_mb * _MIB)
    capacity = capacity_for(budget_bytes, width)
    try:
        if source == "kafka":
            counts = count_served(_served(), model, capacity)
        else:
            options = tables(null_words, encoding)
            counts = count_file(source, model, capacity, columns=columns, skip=skip, options=options)
        plan = plan_tables(counts, width=width, budget_bytes=budget_bytes, min_count=min_count)
    except ValueError as error:
        raise StartError(f"{source}: {error}") from error
    if as_toml:
        click.echo(to_toml(plan, model))
    elif not as_json:
        click.echo(to_text(plan))
    if as_json:
        click.echo(json.dumps(plan.as_dict()))


def count_served(messages: Iterable[Served], model: ModelConfig, capacity: int) -> list[SlotCounts]:
    """Counts the keys of every categorical slot, as scoring made them. The log's items share the keys of `item`."""
    from ranker.inputs.features import Featurizer

    featurizer = Featurizer(model)
    counts = {
        slot.name: SlotCounts(slot.name, slot.table, capacity) for slot in model.slots if slot.kind == "categorical"
    }
    for batch in _batches(messages):
        requests = [served_request(message) for message in batch]
        for name, slot in featurizer.keys(requests, 1).slots.items():
            if name in counts:
                counts[name].add(slot.keys_T)
    if not any(slot.occurrences for slot in counts.values()):
        raise ValueError(f"{SERVED} holds nothing to count; send requests first, or plan --from a file")
    return list(counts.values())


def count_file(
    address: str,
    model: ModelConfig,
    capacity: int,
    *,
    columns: tuple[str, ...] = (),
    skip: tuple[str, ...] = (),
    options: TableOptions = _OPTIONS,
) -> list[SlotCounts]:
    """Counts the keys of the columns that `columns` names, or else of all of strings, integers, booleans or lists of
    them.

    Raises StartError where the file cannot be read, lacks a column, or names one of structures, and ValueError where
    it has no rows.
    """
    from streams.datasets.csv_file import OtherType

    text: set[str] = set()
    while True:
        try:
            return _count_columns(address, model, capacity, columns, skip, options, text)
        except OtherType as error:  # whoever reads the whole file finds out before: it is text to all
            if error.column in text:
                raise
            text.add(error.column)


def _count_columns(
    address: str,
    model: ModelConfig,
    capacity: int,
    columns: tuple[str, ...],
    skip: tuple[str, ...],
    options: TableOptions,
    text: Collection[str],
) -> list[SlotCounts]:
    """text: columns that are text, whatever their first block looks like."""
    from streams.datasets.files import read_batches, reading

    schema, batches = read_batches(address, options, text=text)
    with reading(address):
        if unknown := {*columns, *skip} - set(schema.names):
            raise ValueError(f"no columns {sorted(unknown)}; there are {schema.names}")
        found = columns or [field.name for field in schema if _is_category(field.type)]
        chosen = [name for name in found if name not in skip]
        if not chosen:
            raise ValueError(f"no column of categories among {schema.names}; name some with --column")
        table_of = {slot.name: slot.table for slot in model.slots if slot.kind == "categorical"}
        counts = {name: SlotCounts(name, table_of.get(name, _OTHER_COLUMNS), capacity) for name in chosen}
        for batch in batches:
            for slot in counts.values():
                _count(batch.column(slot.name), slot, options)
    if not any(slot.occurrences for slot in counts.values()):
        raise ValueError("the file has no rows")
    return list(counts.values())


def _count(values: Any, slot: SlotCounts, options: TableOptions) -> None:
    from ranker.tabular.columns import texts

    found = texts(_flat(values, slot.name, options), slot.name).value_counts()
    words = [word or "" for word in found.field("values").to_pylist()]
    keys = salted(np.fromiter(map(hash64, words), np.uint64, len(words)), slot.name)
    slot.add(keys, found.field("counts").to_numpy())


def to_toml(plan: Plan, model: ModelConfig) -> str:
    """The `model.tables` of a recipe: the planned ones, and unchanged those of the model that nothing was seen of."""
    planned = [TableConfig(name=t.name, rows=t.rows, tail_rows=t.tail_rows) for t in plan.tables]
    names = {table.name for table in planned}
    return "\n\n".join(
        f"[[model.tables]]\nname = {json.dumps(t.name)}\nrows = {t.rows}\ntail_rows = {t.tail_rows}"
        for t in [*planned, *(table for table in model.tables if table.name not in names)]
    )


def to_text(plan: Plan) -> str:
    """A line for each slot, then one for its table."""
    lines: list[tuple[str, ...]] = [_HEADER]
    for table in plan.tables:
        lines += [_slot_line(slot) for slot in plan.slots if slot.table == table.name]
        lines.append(_table_line(table))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(
            cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    return "\n".join(
        [
            *(line.rstrip() for line in text),
            "",
            f"{plan.nbytes / _MIB:.2f} of {plan.budget_bytes / _MIB:.2f} MiB at width {plan.width}; "
            f"a key has a row of its own from {plan.price:.1f} occurrences on.",
            "90 % in: keys that make up 90 % of occurrences. covered: occurrences of keys with a row of their own.",
            "in tail: keys without one. shared: those of them expected to share their tail row.",
        ]
    )


def _slot_line(slot: PlannedSlot) -> tuple[str, ...]:
    error = f" ±{slot.distinct_error:,.0f}" if slot.distinct_error else ""
    return (
        slot.name,
        slot.table,
        f"{slot.distinct:,.0f}{error}",
        f"{slot.occurrences:,}",
        f"{slot.rows_for_90_percent:,}",
        f"{slot.covered:.1%}",
        f"{slot.rows:,}",
        *[""] * 4,
    )


def _table_line(table: PlannedTable) -> tuple[str, ...]:
    return (
        "=",
        table.name,
        *[""] * 4,
        f"{table.rows:,}",
        f"{table.tail_rows:,}",
        f"{table.nbytes / _MIB:.2f}",
        f"{table.tail_keys:,.0f}",
        f"{table.tail_collisions:,.0f}",
    )


def _served() -> Iterator[Served]:
    """Yields what `ranking.served` holds. What does not decode is somebody else's to report (`tiderank dlq`)."""
    from streams.kafka.connection import Kafka
    from streams.kafka.scan import read_topic
    from streams.wire.codec import decode

    kafka = Kafka.from_environment(required(BOOTSTRAP, "the broker's host:port"))
    for record in read_topic(kafka, SERVED):
        try:
            yield decode(TOPICS[SERVED], record.value)
        except Refused:
            continue


def _batches(messages: Iterable[Served]) -> Iterator[list[Served]]:
    batch: list[Served] = []
    for message in messages:
        batch.append(message)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _is_category(kind: Any) -> bool:
    """Whether a plain type is text, an integer or a boolean, or a list of what may be one."""
    from pyarrow import types

    from ranker.tabular.plain import is_list

    if is_list(kind):
        return not types.is_nested(kind.value_type) and not types.is_floating(kind.value_type)
    return bool(types.is_string(kind) or types.is_integer(kind) or types.is_boolean(kind))


def _flat(values: Any, name: str, options: TableOptions) -> Any:
    """Lists as their elements, an empty or missing one as a missing category."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from ranker.tabular.plain import is_list, plain

    if not is_list(values.type):
        return values
    missing = pc.sum(pc.equal(pc.fill_null(pc.list_value_length(values), 0), 0)).as_py() or 0
    elements = plain(pc.list_flatten(values), name, options.null_words)
    return pa.concat_arrays([elements, pa.nulls(missing, elements.type)])
