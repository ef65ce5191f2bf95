"""The reader of tables, whoever reads: Parquet, and CSV of any packing and encoding, from a path or a URL.

What comes out is of plain types (ranker.tabular.plain), made so right after reading; a column that cannot be made plain
stays as it is, and is refused where it is used. Columns have names of their own. A row's number, in errors, counts from
1 and leaves out the heading.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from streams.datasets.addresses import check_address, open_bytes, open_unpacked
from streams.datasets.options import TableOptions
from streams.errors import StartError, one_line

DEFAULT = TableOptions()


def read_table(address: str, options: TableOptions = DEFAULT, *, text: Collection[str] = ()) -> Any:
    """The whole file as a pyarrow.Table of at least one row; the columns `text` of a CSV file are read as strings.

    Raises StartError where it is no readable file of a kind that is known, or is empty.
    """
    check_address(address)
    with reading(address):
        head = open_unpacked(address)[1]
        if _is_parquet(address, head):
            table = _made_plain(_parquet(address).read(), options.null_words)
        else:
            table = _made_plain(_csv(address, options, head).read(text), ())
    if not table.num_rows:
        raise StartError(f"{address} has columns and no rows")
    return table


def read_batches(
    address: str, options: TableOptions = DEFAULT, *, text: Collection[str] = (), columns: Collection[str] | None = None
) -> tuple[Any, Iterator[Any]]:
    """Schema and record batches of the file, of which memory holds one; with `columns`, batches of those alone.

    The types of a CSV file's columns are those of its first block, or strings for those in `text`. Raises StartError,
    at once or on the way, as read_table.
    """
    check_address(address)
    with reading(address):
        head = open_unpacked(address)[1]
        if _is_parquet(address, head):
            file, words = _parquet(address), options.null_words
            schema, batches = file.schema_arrow, file.iter_batches(columns=columns and list(columns))
        else:
            words = ()
            schema, batches = _csv(address, options, head).batches(text, columns)
        return _made_plain(schema.empty_table(), ()).schema, _each(address, batches, words)


def column_names(address: str, options: TableOptions = DEFAULT) -> list[str]:
    """Raises StartError, as read_table."""
    names: list[str] = read_batches(address, options)[0].names
    return names


@contextmanager
def reading(where: object) -> Iterator[None]:
    """Raises StartError for what a person must mend: a file's bytes or, by a ValueError, what it holds."""
    from pyarrow import ArrowException

    try:
        yield
    except (ArrowException, OSError, EOFError) as error:
        raise StartError(f"{where} cannot be read: {one_line(error)}; mend it, or write it anew") from error
    except ValueError as error:
        raise StartError(f"{where}: {error}") from error


def _is_parquet(address: str, head: bytes) -> bool:
    return head.startswith(b"PAR1") or address.endswith(".parquet")


def _parquet(address: str) -> Any:
    from pyarrow.parquet import ParquetFile

    from ranker.tabular.columns import check_unique

    # INT96 would be nanoseconds, which end in 2262 and wrap in silence.
    file = ParquetFile(open_bytes(address), coerce_int96_timestamp_unit="us")
    check_unique(file.schema_arrow.names)
    return file


def _csv(address: str, options: TableOptions, head: bytes) -> Any:
    from streams.datasets.csv_file import CsvFile

    return CsvFile(address, options, head)


def _made_plain(table: Any, null_words: Collection[str]) -> Any:
    """A Table or RecordBatch with those of its columns plain that can be."""
    from ranker.tabular.plain import plain

    def made_plain(name: str, values: Any) -> Any:
        with suppress(ValueError):  # whoever uses the column hears of it
            return plain(values, name, null_words)
        return values

    names = table.schema.names
    columns = [made_plain(name, values) for name, values in zip(names, table.columns, strict=True)]
    return type(table).from_arrays(columns, names=names)


def _each(address: str, batches: Iterator[Any], null_words: Collection[str]) -> Iterator[Any]:
    with reading(address):
        for batch in batches:
            yield _made_plain(batch, null_words)
