"""Where a table is: a path on this machine, or a URL of any store that fsspec knows; and its bytes, unpacked."""

from pathlib import Path
from typing import Any

from streams.errors import StartError

PACKINGS = (".gz", ".bz2", ".zst", ".lz4")
FORMATS = (".parquet", ".csv")
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}
_FOREIGN = {
    b"PK\x03\x04": "a zip archive or a spreadsheet",
    b"\xfd7zXZ": "packed by xz",
    b"7z\xbc\xaf": "packed by 7-Zip",
    b"\xd0\xcf\x11\xe0": "a spreadsheet",
    b"ORC": "an ORC file",
    b"ARROW1": "an Arrow or Feather file",
    b"Obj\x01": "an Avro file",
    b"SQLite format 3": "a database",
}
_HEAD = 4096
"""Bytes by which a file is known."""


def check_address(address: str) -> None:
    """Raises StartError where it names no file of one of FORMATS, or an empty one, or a package is missing."""
    try:
        import pyarrow  # noqa: F401
    except ModuleNotFoundError as error:
        raise StartError("tables need pyarrow: pip install 'tiderank[tables]'") from error
    name = address.rpartition("/")[2]
    bare = name if "://" not in address else name.partition("?")[0]  # of a signed URL
    if not bare.endswith((*FORMATS, *(f".csv{packing}" for packing in PACKINGS))):
        raise StartError(f"a table is a .parquet or .csv file (or .csv{', .csv'.join(PACKINGS)}), got {name!r}")
    if "://" in address:
        _store(address)
        return
    path = Path(address)
    if not path.exists():
        raise StartError(f"no file at {path}")
    if path.is_dir():
        raise StartError(f"{path} is a directory: give one file")
    if not path.stat().st_size:
        raise StartError(f"{path} is empty")


def open_bytes(address: str) -> Any:
    """The file as a pyarrow.NativeFile, as it lies there. Raises StartError where it is out of reach."""
    import pyarrow as pa

    if "://" not in address:
        return pa.OSFile(address)
    store, path = _store(address)
    try:
        return pa.PythonFile(store.open(path, "rb"), mode="r")
    except FileNotFoundError as error:
        raise StartError(f"no file at {address}") from error
    except Exception as error:  # each store has its own: no credentials, no network, no such bucket
        raise StartError(f"{address} cannot be opened: {type(error).__name__}: {error}") from error


def _store(address: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it."""
    from fsspec.core import url_to_fs

    try:
        store, path = url_to_fs(address)
    except ImportError as error:
        raise StartError(f"{address} needs a package that is not installed: {error}") from error
    except ValueError as error:
        raise StartError(f"{address} must be a path or a URL that fsspec can open: {error}") from error
    return store, path


def open_unpacked(address: str) -> tuple[Any, bytes]:
    """The file's bytes, unpacked where they are packed, whatever the file is called; and the first of them.

    Raises StartError where they are of a kind that is neither Parquet nor CSV.
    """
    import pyarrow as pa

    magic = open_bytes(address).read(16)
    if what := next((kind for start, kind in _FOREIGN.items() if magic.startswith(start)), None):
        raise StartError(f"{address} is {what}: unpack it, or write it as .parquet or .csv")
    packing = next((packing for start, packing in _PACKED.items() if magic.startswith(start)), None)

    def opened() -> Any:
        file = open_bytes(address)
        return file if packing is None else pa.CompressedInputStream(file, packing)

    head = opened().read(_HEAD)
    if not head:
        raise StartError(f"{address} is empty")
    return opened(), head
