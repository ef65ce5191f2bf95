"""What a person says of a table's file. Knows nothing of Arrow, so that a command line loads fast."""

import codecs
from dataclasses import dataclass

NULL_WORDS = (
    *("\\N", "NULL", "Null", "null", "None", "NA", "N/A", "n/a", "<NA>", "#N/A", "#NA", "#N/A N/A"),
    *("NaN", "nan", "NAN", "-NaN", "-nan", "1.#QNAN", "-1.#QNAN", "1.#IND", "-1.#IND"),
)
"""As Hive, SQL, Python, pandas, R, spreadsheets and C write that there is no value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TableOptions:
    """How the file of a table is to be read."""

    null_words: tuple[str, ...] = NULL_WORDS
    """Texts that stand for no value, as empty text always does."""
    encoding: str | None = None
    """Name of a CSV file's encoding; None: UTF-8, or UTF-16 where the file begins with its byte order mark."""
    delimiter: str = ","
    """Character between the cells of a CSV file."""

    def __post_init__(self) -> None:
        if self.encoding is not None:
            try:
                codecs.lookup(self.encoding)
            except LookupError as error:
                raise ValueError(f"encoding must be one that Python knows, got {self.encoding!r}") from error
        if len(self.delimiter) != 1 or not self.delimiter.isascii():
            raise ValueError(f"delimiter must be one ASCII character, got {self.delimiter!r}")
