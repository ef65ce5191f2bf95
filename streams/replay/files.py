"""Parquet and CSV files as logs, through a column mapping."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from streams.replay.log import LoggedImpression, TrafficLog
from streams.replay.mapping import Mapping


def file_log(path: Path, mapping: Mapping, name: str) -> TrafficLog:
    """The log in this file; its model has that name.

    Raises ValueError where the file is of another kind, or lacks a column that the mapping names.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise ValueError(f"a log must be a .csv or .parquet file, got {path.name!r}")
    if not path.is_file():
        raise ValueError(f"no log at {path}")
    mapping.check(_columns(path, mapping), str(path))
    return TrafficLog(
        name=name,
        read=lambda: _in_order(path, mapping),
        model=mapping.model(name),
        click_window_ms=round(mapping.click_window_s * 1000),
        candidates=mapping.candidates,
    )


def _in_order(path: Path, mapping: Mapping) -> Iterator[LoggedImpression]:
    rows = _rows(path, mapping)
    impressions = (mapping.impression(row, f"{path}, line {number}") for number, row in enumerate(rows, start=1))
    if not mapping.sorted:
        yield from sorted(impressions, key=lambda impression: impression.event_ms)
        return
    newest = -1
    for number, impression in enumerate(impressions, start=1):
        if impression.event_ms < newest:
            raise ValueError(
                f"{path}, line {number}: time goes back from {newest} to {impression.event_ms} ms; "
                "sort the file, or leave `sorted` out of the mapping"
            )
        newest = impression.event_ms
        yield impression


def _columns(path: Path, mapping: Mapping) -> list[str]:
    if path.suffix == ".parquet":
        names: list[str] = _parquet(path).schema_arrow.names
        return names
    with path.open(newline="", encoding="utf-8") as file:
        return next(csv.reader(file, delimiter=mapping.delimiter), [])


def _rows(path: Path, mapping: Mapping) -> Iterator[dict[str, Any]]:
    if path.suffix == ".parquet":
        for batch in _parquet(path).iter_batches(columns=list(mapping.columns)):
            yield from batch.to_pylist()
        return
    with path.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file, delimiter=mapping.delimiter)


def _parquet(path: Path) -> Any:
    try:
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Parquet files need pyarrow: pip install 'tiderank[tables]'") from error
    return ParquetFile(path)
