"""`tiderank snapshot`: what is in a store of snapshots, whether it is whole, and copies of it."""

import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from streams.config.settings import SNAPSHOTS, snapshots_url
from streams.errors import StartError
from streams.options import json_option

if TYPE_CHECKING:
    from ranker.snapshots.snapshot import Found

snapshots_option = click.option(
    "--snapshots", metavar="URL", help=f"Where they are. [env {SNAPSHOTS}; default: snapshots in the data folder]"
)


@click.group("snapshot")
def snapshot_command() -> None:
    """Snapshots of the weights: the training state and the published image, at one number."""


@snapshot_command.command("ls")
@snapshots_option
@json_option
def ls(snapshots: str | None, as_json: bool) -> None:
    """List snapshots, oldest first. `whole`: every shard is there and has its size; `verify` reads them."""
    rows = [_row(found) for found in _survey(snapshots or snapshots_url())]
    if as_json:
        click.echo(json.dumps(rows))
        return
    click.echo(
        f"{'name':<24}{'epoch':>6}{'update':>9}  {'created (UTC)':<20}{'bytes':>15}{'shards':>7}  {'model':<17}whole"
    )
    for row in rows:
        click.echo(_line(row))


@snapshot_command.command("verify")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@snapshots_option
@json_option
def verify(names: tuple[str, ...], snapshots: str | None, as_json: bool) -> None:
    """Read snapshots from their store and check every digest. Exit status 1 if something is wrong.

    Without a NAME: all that have a manifest.
    """
    from ranker.snapshots.reader import ShardReader
    from streams.config.snapshots import streams_setting

    url = snapshots or snapshots_url()
    reader, results = ShardReader(streams_setting()), []
    for found in _chosen(url, names) if names else [f for f in _survey(url) if f.has_manifest]:
        problems = [found.problem] if found.manifest is None else []
        if found.manifest is not None:
            with _progress(found.name, sum(s.size for s in found.manifest.shards)) as read, _readable(url):
                problems = reader.verify(found.url, found.manifest.shards, read)
        results.append({"name": found.name, "ok": not problems, "problems": problems})
        if not as_json:
            click.echo(f"{found.name} {'is whole' if not problems else 'is NOT whole'}")
            for problem in problems:
                click.echo(f"  {problem}")
    if as_json:
        click.echo(json.dumps(results))
    elif not results:
        click.echo(f"no snapshots in {url}")
    if not all(result["ok"] for result in results):
        sys.exit(1)


@snapshot_command.command("restore")
@click.argument("name")
@click.option("--to", "target", metavar="URL", required=True, help="Another root; made if it is not there.")
@snapshots_option
@json_option
def restore(name: str, target: str, snapshots: str | None, as_json: bool) -> None:
    """Copy a snapshot to another root, every digest checked on the way; its manifest comes last.

    Workers that are started with that root as their TIDERANK_SNAPSHOTS go on from it.
    """
    from ranker.snapshots.reader import ShardReader, SnapshotError
    from ranker.snapshots.snapshot import Snapshot, copy_snapshot
    from streams.config.snapshots import streams_setting

    url = snapshots or snapshots_url()
    (found,) = _chosen(url, [name])
    if found.manifest is None:
        raise StartError(f"{found.url} cannot be copied: {found.problem}")
    size = sum(shard.size for shard in found.manifest.shards)
    try:
        with _progress(name, size) as read, _readable(target):
            copy = copy_snapshot(Snapshot(found.url, found.manifest), target, ShardReader(streams_setting()), read)
    except SnapshotError as error:
        raise StartError(str(error)) from error
    if as_json:
        click.echo(json.dumps({"name": name, "from": found.url, "to": copy.url, "bytes": size}))
    else:
        click.echo(f"{copy.url} is whole: {size:,} bytes")


def _survey(url: str) -> "list[Found]":
    """Lists the snapshots in a store. Raises StartError where it cannot be read, or is not there."""
    from ranker.snapshots.snapshot import survey
    from ranker.snapshots.store import open_root

    with _readable(url):
        found = survey(url)
        if not found:
            fs, path = open_root(url)
            if not fs.exists(path):
                raise StartError(f"{url} is not there: name the root of the snapshots by --snapshots or {SNAPSHOTS}")
    return found


def _chosen(url: str, names: Sequence[str]) -> "list[Found]":
    there = {found.name: found for found in _survey(url)}
    if unknown := [name for name in names if name not in there]:
        raise StartError(f"no snapshot {', '.join(unknown)} in {url}, which has {', '.join(there) or 'none'}")
    return [there[name] for name in names]


@contextmanager
def _readable(url: str) -> Iterator[None]:
    """Turns errors in the block that the store or its URL is to blame for into StartError."""
    try:
        yield
    except PermissionError as error:
        raise StartError(f"{url}: no permission ({error}); give this user the right, or name another place") from error
    except OSError as error:
        raise StartError(f"{url}: {error}; mend the store, or name another place") from error
    except ValueError as error:  # it says of which URL
        raise StartError(str(error)) from error


def _row(found: "Found") -> dict[str, Any]:
    manifest = found.manifest
    row: dict[str, Any] = {"name": found.name, "url": found.url, "whole": False, "problem": found.problem}
    if manifest is None:
        return row
    problem = _missing(found)
    return row | {
        "epoch": manifest.position.epoch,
        "update": manifest.position.number,
        "created_ms": manifest.created_ms,
        "bytes": sum(shard.size for shard in manifest.shards),
        "shards": len(manifest.shards),
        "model": manifest.digest,
        "whole": not problem,
        "problem": problem,
    }


def _missing(found: "Found") -> str:
    """Says, by one listing, which of the shards that the manifest names are not there whole; empty where all are."""
    from ranker.snapshots.store import open_root

    assert found.manifest is not None
    with _readable(found.url):
        fs, path = open_root(found.url)
        sizes = {entry["name"].rsplit("/", 1)[-1]: entry["size"] for entry in fs.ls(path, detail=True)}
    wrong = [shard.file for shard in found.manifest.shards if sizes.get(shard.file) != shard.size]
    return f"missing or of another size: {', '.join(wrong)}" if wrong else ""


def _line(row: dict[str, Any]) -> str:
    if "epoch" not in row:
        return f"{row['name']:<24}no: {row['problem']}"
    created = datetime.fromtimestamp(row["created_ms"] / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return (
        f"{row['name']:<24}{row['epoch']:>6}{row['update']:>9}  {created:<20}{row['bytes']:>15,}{row['shards']:>7}  "
        f"{row['model']:<17}{'yes' if row['whole'] else 'no: ' + row['problem']}"
    )


@dataclass
class _Count:
    done: int = 0
    shown: int = 0


@contextmanager
def _progress(name: str, size: int) -> Iterator[Callable[[int], None]]:
    """A line on standard error that grows, where that is a terminal; it is told the size of each piece."""
    count, lock = _Count(), threading.Lock()

    def read(piece: int) -> None:
        with lock:
            count.done += piece
            if count.done - count.shown >= size // 100 and sys.stderr.isatty():
                count.shown = count.done
                click.echo(f"\r{name}: {count.done / 1e6:,.0f} of {size / 1e6:,.0f} MB", err=True, nl=False)

    yield read
    if count.shown:
        click.echo("\r\033[K", err=True, nl=False)
