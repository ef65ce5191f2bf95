"""Snapshots: a learner's state and the published image at one number, in any store that fsspec knows.

A snapshot is a directory, e00000001-n000000000042: safetensors shards of the two parts, and manifest.json with a digest
of every shard. The manifest is written last, once the shards are on the disk, and appears whole: a directory without
one is not a snapshot (yet), and neither a crash nor a power cut leaves what could be taken for one. It is removed
first, too.
"""

import contextlib
import json
import logging
import re
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import msgspec
from torch import Tensor

from ranker.inputs.copies import Copies
from ranker.snapshots.reader import ShardReader
from ranker.snapshots.reader import SnapshotError as SnapshotError
from ranker.snapshots.retention import DEFAULT_RETENTION, Retention
from ranker.snapshots.shards import Shard, write_shards
from ranker.snapshots.store import flush_folder, open_root, write_whole
from ranker.updates.image import Image
from ranker.updates.log import Position

log = logging.getLogger(__name__)

Part = Literal["image", "training"]
FORMAT = 1
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 16_000_000
_END_MS = 1 << 47
_NAME = re.compile(r"e(\d{8,16})-n(\d{12,16})")


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    format: int = FORMAT
    digest: str
    """Digest of the configuration."""
    position: Position
    """Position of both parts; model.updates goes on at its offset."""
    offsets: dict[str, int]
    """Next offset of training.examples by partition."""
    watermark_ms: int
    created_ms: int
    gate_closed: bool = False
    """Taken while labels were kept out of training: who takes it up keeps them out until they are as expected again."""
    parts: dict[Part, list[Shard]] = field(default_factory=dict)

    @property
    def shards(self) -> list[Shard]:
        return [shard for part in sorted(self.parts) for shard in self.parts[part]]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Where one is, and what its manifest says."""

    url: str
    manifest: Manifest

    @property
    def name(self) -> str:
        """Name of its directory."""
        return self.url.rstrip("/").rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True)
class Found:
    """A directory that is named as a snapshot; `manifest` is None where `problem` says why it is none."""

    name: str
    url: str
    manifest: Manifest | None
    problem: str = ""
    has_manifest: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """Both parts at one number: copies, which no step and no update changes any more.

    `image` and `training` sort what they return when they are called: that takes several times as long as the copy.
    """

    image: Callable[[], dict[str, Tensor]]
    training: Callable[[], dict[str, Tensor]]
    position: Position
    offsets: dict[str, int]
    watermark_ms: int
    gate_closed: bool = False

    @staticmethod
    def of(
        image: Image, training: Callable[[], dict[str, Tensor]], copies: Copies, *, gate_closed: bool = False
    ) -> "State":
        """Copies the image as it stands. training: of the same number (learning.state.copied_state).

        Raises ValueError if the image has no position.
        """
        if image.position is None:
            raise ValueError("a snapshot needs a position: apply an update to the image, or load one, before")
        return State(
            image=image.copied(copies),
            training=training,
            position=image.position,
            offsets=dict(image.offsets),
            watermark_ms=image.watermark_ms,
            gate_closed=gate_closed,
        )


def write_snapshot(
    root: str,
    image: Image,
    training: dict[str, Tensor],
    *,
    digest: str,
    created_ms: int,
    keep: Retention = DEFAULT_RETENTION,
) -> Snapshot:
    """Write both parts under `root` (an fsspec URL or a path), then remove the snapshots that are not to be kept.

    The image must stand where the training state does: publish all changes, apply them to the image, then call this.
    Raises ValueError if the image has no position, and what the store raises: then nothing of it is left.
    """
    return write_state(
        root, State.of(image, lambda: training, Copies()), digest=digest, created_ms=created_ms, keep=keep
    )


def write_state(
    root: str,
    state: State,
    *,
    digest: str,
    created_ms: int,
    keep: Retention = DEFAULT_RETENTION,
    needed: Collection[Position] = (),
    go_on: Callable[[], None] = lambda: None,
) -> Snapshot:
    """Write a state that was copied before, as write_snapshot does: may run beside the training.

    needed: positions whose snapshots stay, whatever `keep` says.
    go_on: called every few megabytes; what it raises ends the writing, with nothing left of it.
    """
    fs, path = open_root(root)
    folder = f"{path}/{snapshot_name(state.position)}"
    fs.makedirs(folder, exist_ok=True)
    try:
        with contextlib.suppress(FileNotFoundError):  # of the same number: it is none while its shards are written
            fs.rm_file(f"{folder}/{MANIFEST}")
        manifest = Manifest(
            digest=digest,
            position=state.position,
            offsets=state.offsets,
            watermark_ms=state.watermark_ms,
            created_ms=created_ms,
            gate_closed=state.gate_closed,
            parts={
                "image": write_shards(fs, folder, "image", state.image(), go_on),
                "training": write_shards(fs, folder, "training", state.training(), go_on),
            },
        )
        go_on()
        _write_manifest(fs, folder, manifest)
    except BaseException:
        with contextlib.suppress(Exception):  # a full disk must not stay full
            fs.rm(folder, recursive=True)
        raise
    _prune(root, keep, needed)
    return Snapshot(fs.unstrip_protocol(folder), manifest)


def survey(root: str) -> list[Found]:
    """All directories that are named as snapshots, of any model, in the order of epoch and number.

    Raises ValueError if this machine cannot open such a store, and what the store raises.
    """
    fs, path = open_root(root)
    fs.invalidate_cache()
    if fs.isfile(path):
        raise NotADirectoryError(f"{root} is a file: snapshots are in a folder")
    try:
        names = [entry.rstrip("/").rsplit("/", 1)[-1] for entry in fs.ls(path, detail=False)]
    except FileNotFoundError:
        return []
    names = sorted(filter(_NAME.fullmatch, names), key=_number)
    urls = [fs.unstrip_protocol(f"{path}/{name}") for name in names]
    manifests = [f"{path}/{name}/{MANIFEST}" for name in names]
    read = fs.cat_ranges(manifests, 0, MAX_MANIFEST_BYTES + 1, on_error="return") if names else []
    return [_found(*each) for each in zip(names, urls, read, strict=True)]


def list_snapshots(root: str, digest: str) -> list[Snapshot]:
    """List the snapshots of this configuration, oldest first. One whose manifest cannot be read is left out."""
    found = [(f.url, f.manifest) for f in survey(root)]
    return [Snapshot(url, manifest) for url, manifest in found if manifest is not None and manifest.digest == digest]


def load_image(snapshot: Snapshot, image: Image, reader: ShardReader | None = None) -> None:
    """Load a snapshot into an image, in place. Raises SnapshotError if shards are missing or changed.

    Takes memory for the image once more while it loads. reader: how to read; by default without caches.
    """
    manifest = snapshot.manifest
    image.load(
        _load(snapshot, "image", reader),
        manifest.position,
        watermark_ms=manifest.watermark_ms,
        offsets=manifest.offsets,
    )


def load_training_state(snapshot: Snapshot, reader: ShardReader | None = None) -> dict[str, Tensor]:
    """Load what learning.state.restore takes. Raises SnapshotError if shards are missing or changed."""
    return _load(snapshot, "training", reader)


def copy_snapshot(
    snapshot: Snapshot, root: str, reader: ShardReader, read: Callable[[int], None] = lambda size: None
) -> Snapshot:
    """The same snapshot under another root, checked on the way, its manifest last; nothing is removed there.

    read: is told the size of each piece, from several threads. Raises SnapshotError if the snapshot is not whole,
    ValueError if one of this name is there, and what the store raises.
    """
    fs, path = open_root(root)
    folder = f"{path}/{snapshot_name(snapshot.manifest.position)}"
    fs.invalidate_cache()
    if fs.exists(f"{folder}/{MANIFEST}"):
        raise ValueError(f"{fs.unstrip_protocol(folder)} is there already: choose another place, or remove it")
    fs.makedirs(folder, exist_ok=True)
    target = fs.unstrip_protocol(folder)
    try:
        reader.copy(snapshot.url, snapshot.manifest.shards, target, read)
        _write_manifest(fs, folder, snapshot.manifest)
    except BaseException:
        with contextlib.suppress(Exception):
            fs.rm(folder, recursive=True)
        raise
    return Snapshot(target, snapshot.manifest)


def snapshot_name(position: Position) -> str:
    return f"e{position.epoch:08d}-n{position.number:012d}"


def _number(name: str) -> tuple[int, ...]:
    match = _NAME.fullmatch(name)
    assert match is not None  # only such names come here
    return tuple(map(int, match.groups()))


def _found(name: str, url: str, data: bytes | Exception) -> Found:
    if isinstance(data, FileNotFoundError | NotADirectoryError | IsADirectoryError):
        return Found(
            name, url, None, "no manifest: being written, gone back from, or what a crash left", has_manifest=False
        )
    if isinstance(data, Exception):
        raise data
    if len(data) > MAX_MANIFEST_BYTES:
        return Found(name, url, None, f"its manifest is larger than {MAX_MANIFEST_BYTES:,} bytes")
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.MsgspecError as error:
        return Found(name, url, None, f"its manifest cannot be read: {error}")
    if manifest.format != FORMAT:
        return Found(name, url, None, f"it is of format {manifest.format}, this program knows {FORMAT}")
    if manifest.parts.keys() != {"image", "training"} or abs(manifest.created_ms) >= _END_MS:
        return Found(name, url, None, "its manifest must name image and training, and a time of this era")
    return Found(name, url, manifest)


def _write_manifest(fs: Any, folder: str, manifest: Manifest) -> None:
    flush_folder(fs, folder)
    flush_folder(fs, folder.rsplit("/", 1)[0])
    write_whole(fs, f"{folder}/{MANIFEST}", [json.dumps(asdict(manifest), sort_keys=True, indent=1).encode()])
    flush_folder(fs, folder)


def _load(snapshot: Snapshot, part: Part, reader: ShardReader | None) -> dict[str, Tensor]:
    if part not in snapshot.manifest.parts:
        raise SnapshotError(f"the manifest of {snapshot.url} names no shards of the {part}: take an older snapshot")
    return (reader or ShardReader()).load(snapshot.url, snapshot.manifest.parts[part])


def _prune(root: str, keep: Retention, needed: Collection[Position]) -> None:
    """Remove what is not to be kept, its manifest first, so that what is half removed is no snapshot.

    What has no manifest (the remains of a crash, or a snapshot that was gone back from) goes once it is older than the
    newest that are kept. What cannot be removed now is tried again after the next snapshot.
    """
    try:
        fs, path = open_root(root)
        found = survey(root)
        whole = [f for f in found if f.has_manifest]
        kept = keep.kept([None if f.manifest is None else f.manifest.created_ms for f in whole])
        names = {snapshot_name(position) for position in needed}
        going = [f for index, f in enumerate(whole) if index not in kept and f.name not in names]
        if whole:
            oldest = found.index(whole[-keep.newest :][0])
            going += [f for f in found[:oldest] if not f.has_manifest]
        for each in going:
            folder = f"{path}/{each.name}"
            if each.has_manifest:
                fs.rm_file(f"{folder}/{MANIFEST}")
            fs.rm(folder, recursive=True)
    except OSError as error:
        log.warning("snapshots in %s that are no longer wanted could not be removed: %s", root, error)
