"""A CSV file, read by Arrow; what Arrow says of it, in words that name the column and the row."""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from ranker.tabular.columns import check_unique, lost_digits
from streams.datasets.addresses import open_unpacked
from streams.datasets.options import TableOptions
from streams.errors import StartError, one_line

_MARKS = {b"\xff\xfe\x00\x00": "utf-32", b"\x00\x00\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_SAY_ENCODING = "say its encoding (--encoding, or `encoding` in a replay's mapping), or convert it"


class OtherType(StartError):
    """A value far down is not of the type that its column's first block has: read the column as text."""

    def __init__(self, message: str, column: str) -> None:
        super().__init__(message)
        self.column = column


class CsvFile:
    """A CSV file whose first bytes are `head`. Raises StartError, here and in reading, for what a person must mend."""

    def __init__(self, address: str, options: TableOptions, head: bytes) -> None:
        self._address = address
        self._options = options
        mark = next((encoding for mark, encoding in _MARKS.items() if head.startswith(mark)), None)
        if mark is None and options.encoding is None and b"\0" in head:
            raise StartError(
                f"{address} holds NUL bytes, as UTF-16 does where the byte order mark is missing: {_SAY_ENCODING}"
            )
        self._encoding = options.encoding or mark or "UTF-8"

    def read(self, text: Collection[str]) -> Any:
        """All of it as a Table, the columns `text` as strings."""
        with self._told():
            table = self._read(text)
            check_unique(table.column_names)
            self._check_text(table, 0)
            return self._with_exact_integers(table)

    def batches(self, text: Collection[str], columns: Collection[str] | None) -> tuple[Any, Iterator[Any]]:
        """Schema of the whole file, and batches of the columns; types are those of the first block."""
        with self._told():
            reader = self._open(text, None)
            schema, block = reader.schema, next(iter(reader), None)
            check_unique(schema.names)
            text = {*text, *(name for name in schema.names if block is not None and lost_digits(block[name]))}
            return self._open(text, None).schema, self._each(text, columns)

    def _each(self, text: Collection[str], columns: Collection[str] | None) -> Iterator[Any]:
        rows = 0
        with self._told():
            for batch in self._open(text, columns):
                self._check_text(batch, rows)
                rows += batch.num_rows
                yield batch

    def _read(self, text: Collection[str], columns: Collection[str] | None = None) -> Any:
        try:
            return pyarrow.csv.read_csv(open_unpacked(self._address)[0], **self._words(text, columns))
        except pa.ArrowInvalid:  # once more by one thread, which knows the row
            return pyarrow.csv.read_csv(open_unpacked(self._address)[0], **self._words(text, columns, threads=False))

    def _open(self, text: Collection[str], columns: Collection[str] | None) -> Any:
        return pyarrow.csv.open_csv(open_unpacked(self._address)[0], **self._words(text, columns, threads=False))

    def _words(
        self, text: Collection[str], columns: Collection[str] | None, *, threads: bool = True
    ) -> dict[str, object]:
        return {
            "read_options": pyarrow.csv.ReadOptions(use_threads=threads, encoding=self._encoding),
            "parse_options": pyarrow.csv.ParseOptions(delimiter=self._options.delimiter, newlines_in_values=True),
            "convert_options": pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(text, pa.string()),
                include_columns=columns and list(columns),
                null_values=["", *self._options.null_words],
                strings_can_be_null=True,
            ),
        }

    def _with_exact_integers(self, table: Any) -> Any:
        """With integers that int64 does not hold, which Arrow takes for floats, as the text that they are."""
        if lost := [name for name in table.column_names if lost_digits(table[name])]:
            again = self._read(lost, lost)
            for name in lost:
                if pc.all(pc.match_substring_regex(again[name], r"^-?\d+$")).as_py():
                    table = table.set_column(table.column_names.index(name), name, again[name])
        return table

    def _check_text(self, table: Any, before: int) -> None:
        """Raises StartError where a text is not of the encoding: Arrow takes such a column for raw bytes."""
        for name in table.schema.names:
            if pa.types.is_binary(table[name].type):
                for row, value in enumerate(table[name].to_pylist(), start=before + 1):
                    try:
                        _ = value and value.decode()
                    except UnicodeDecodeError as error:
                        where = f"column {name!r}, row {row}"
                        raise StartError(
                            f"{self._address} is not UTF-8: {where} holds {value[:40]!r}; {_SAY_ENCODING}"
                        ) from error

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except UnicodeDecodeError as error:
            raise StartError(f"{self._address} is not {self._encoding}: {error}; {_SAY_ENCODING}") from error
        except pa.ArrowInvalid as error:
            said = re.sub(r"In CSV column #(\d+): ", self._column, one_line(error))
            said = re.sub(r"Row #(\d+)", lambda row: f"row {int(row[1]) - 1}", said)
            if "invalid UTF8" in said:
                raise StartError(f"{self._address} is not UTF-8: {said}; {_SAY_ENCODING}") from error
            message = f"{self._address} cannot be read: {said}; mend it, or write it anew"
            if "conversion error" in said and (number := re.search(r"In CSV column #(\d+)", str(error))):
                raise OtherType(message, self._open((), None).schema.names[int(number[1])]) from error
            raise StartError(message) from error

    def _column(self, number: re.Match[str]) -> str:
        with suppress(pa.ArrowInvalid, UnicodeDecodeError):
            return f"column {self._open((), None).schema.names[int(number[1])]!r}, "
        return number[0]
