"""Parquet and CSV files as logs, through a column mapping."""

from collections.abc import Iterator

from streams.datasets.logs.columns import Mapping
from streams.datasets.logs.traffic import LoggedImpression, TrafficLog


def file_log(address: str, mapping: Mapping, name: str) -> TrafficLog:
    """The log in the file at this address, called as the file is; its model has that name.

    Raises StartError where the file cannot be read, and ValueError where it lacks a column that the mapping names.
    """
    from streams.datasets.files import column_names

    mapping.check(column_names(address, mapping.options), address)
    return TrafficLog(
        name=_file_name(address),
        read=lambda: _in_order(address, mapping),
        model=mapping.model(name),
        click_window_ms=round(mapping.click_window_s * 1000),
        candidates=mapping.candidates,
        begins_ms=mapping.begins_ms,
    )


def _file_name(address: str) -> str:
    """Without folders, and without what a signed URL has behind it."""
    name = address.rpartition("/")[2]
    return name if "://" not in address else name.partition("?")[0]


def _in_order(address: str, mapping: Mapping) -> Iterator[LoggedImpression]:
    impressions = _impressions(address, mapping)
    if not mapping.sorted:
        yield from sorted(impressions, key=lambda impression: impression.event_ms)
        return
    newest = -1
    for number, impression in enumerate(impressions, start=1):
        if impression.event_ms < newest:
            raise ValueError(
                f"{address}, row {number}: time goes back from {newest} to {impression.event_ms} ms; "
                "sort the file, or leave `sorted` out of the mapping"
            )
        newest = impression.event_ms
        yield impression


def _impressions(address: str, mapping: Mapping) -> Iterator[LoggedImpression]:
    from streams.datasets.files import read_batches, reading
    from streams.datasets.logs.rows import Rows

    _, batches = read_batches(address, mapping.options, text=mapping.columns, columns=mapping.columns)
    first = 1
    for batch in batches:
        with reading(address):
            found = list(Rows(batch, mapping, first).impressions())
        yield from found
        first += batch.num_rows
