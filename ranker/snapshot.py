"""Snapshots: a learner's state and the published image at one number, in any store that fsspec knows.

A snapshot is a directory, e00000001-n000000000042: safetensors shards of the two parts, and manifest.json with a digest
of every shard. The manifest is written last and appears whole: a directory without one is not a snapshot (yet), and a
crash leaves nothing that could be taken for one.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import fsspec
import msgspec
import safetensors.torch
from fsspec.core import url_to_fs
from torch import Tensor

from ranker.image import Image
from ranker.update_log import Position

Part = Literal["image", "training"]
FORMAT = 1
MANIFEST = "manifest.json"
MAX_SHARD_BYTES = 256_000_000


class SnapshotError(Exception):
    """A snapshot that cannot be used: incomplete, or changed since it was written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    file: str
    size: int
    blake2b: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    format: int = FORMAT
    digest: str
    """Of the configuration."""
    position: Position
    """Of both parts; its offset is where model.updates goes on."""
    offsets: dict[str, int]
    """Next offset of training.examples by partition."""
    watermark_ms: int
    created_ms: int
    parts: dict[str, list[Shard]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Where one is, and what its manifest says."""

    url: str
    manifest: Manifest


def write_snapshot(
    root: str, image: Image, training: dict[str, Tensor], *, digest: str, created_ms: int, keep: int = 3
) -> Snapshot:
    """Write both parts under `root` (an fsspec URL or a path), then remove all but the newest `keep` snapshots.

    The image must stand where the training state does: publish all changes, apply them to the image, then call this.
    Raises ValueError if the image has no position or keep < 1.
    """
    if image.position is None or keep < 1:
        raise ValueError(f"a snapshot needs a position and keep >= 1, got {image.position} and {keep}")
    fs, path = _open_root(root)
    folder = f"{path}/{_name(image.position)}"
    fs.makedirs(folder, exist_ok=True)
    manifest = Manifest(
        digest=digest,
        position=image.position,
        offsets=image.offsets,
        watermark_ms=image.watermark_ms,
        created_ms=created_ms,
        parts={
            "image": _write_shards(fs, folder, "image", image.tensors()),
            "training": _write_shards(fs, folder, "training", training),
        },
    )
    with fs.transaction, fs.open(f"{folder}/{MANIFEST}", "wb") as file:  # appears at the end, whole
        file.write(json.dumps(asdict(manifest), sort_keys=True, indent=1).encode())
    _prune(fs, path, keep)
    return Snapshot(fs.unstrip_protocol(folder), manifest)


def list_snapshots(root: str, digest: str) -> list[Snapshot]:
    """Those of this configuration, oldest first. One whose manifest cannot be read is left out."""
    fs, path = _open_root(root)
    found = []
    for folder in _folders(fs, path):
        try:
            manifest = msgspec.json.decode(fs.cat_file(f"{folder}/{MANIFEST}"), type=Manifest)
        except (FileNotFoundError, msgspec.MsgspecError):
            continue
        if manifest.digest == digest and manifest.format == FORMAT:
            found.append(Snapshot(fs.unstrip_protocol(folder), manifest))
    return sorted(found, key=lambda s: (s.manifest.position.epoch, s.manifest.position.number))


def load_image(snapshot: Snapshot, image: Image) -> None:
    """Into an image, in place. Raises SnapshotError if shards are missing or changed."""
    manifest = snapshot.manifest
    image.load(
        _read_shards(snapshot, "image"),
        manifest.position,
        watermark_ms=manifest.watermark_ms,
        offsets=manifest.offsets,
    )


def load_training_state(snapshot: Snapshot) -> dict[str, Tensor]:
    """For learner_state.restore. Raises SnapshotError if shards are missing or changed."""
    return _read_shards(snapshot, "training")


def _write_shards(fs: Any, folder: str, part: Part, tensors: dict[str, Tensor]) -> list[Shard]:
    shards: list[Shard] = []
    for group in _shard(tensors):
        data = safetensors.torch.save(group)
        name = f"{part}-{len(shards):05d}.safetensors"
        fs.pipe_file(f"{folder}/{name}", data)
        shards.append(Shard(file=name, size=len(data), blake2b=_digest(data)))
    return shards


def _shard(tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """In order of their names, each group at most MAX_SHARD_BYTES unless one tensor is larger."""
    groups: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in sorted(tensors.items()):
        if groups[-1] and size + tensor.nbytes > MAX_SHARD_BYTES:
            groups.append({})
            size = 0
        groups[-1][name] = tensor.contiguous()
        size += tensor.nbytes
    return groups


def _read_shards(snapshot: Snapshot, part: Part) -> dict[str, Tensor]:
    fs, path = _open_root(snapshot.url)
    tensors: dict[str, Tensor] = {}
    for shard in snapshot.manifest.parts[part]:
        try:
            data = fs.cat_file(f"{path}/{shard.file}")
        except FileNotFoundError as exc:
            raise SnapshotError(f"{snapshot.url} lacks {shard.file}: take an older snapshot") from exc
        if len(data) != shard.size or _digest(data) != shard.blake2b:
            raise SnapshotError(f"{snapshot.url}/{shard.file} is not what was written: take an older snapshot")
        tensors |= safetensors.torch.load(data)
    return tensors


def _prune(fs: Any, path: str, keep: int) -> None:
    """Oldest first; the manifest goes first, so that what is half removed is no snapshot. Remains of crashes too."""
    folders = _folders(fs, path)
    whole = [folder for folder in folders if fs.exists(f"{folder}/{MANIFEST}")]
    for folder in folders:
        if folder < whole[-keep:][0]:
            if folder in whole:
                fs.rm_file(f"{folder}/{MANIFEST}")
            fs.rm(folder, recursive=True)


def _folders(fs: Any, path: str) -> list[str]:
    """Ascending by epoch and number."""
    fs.invalidate_cache()
    if not fs.exists(path):
        return []
    return sorted(f for f in fs.ls(path, detail=False) if f.rstrip("/").rsplit("/", 1)[-1].startswith("e"))


def _open_root(url: str) -> tuple[Any, str]:
    fs: fsspec.AbstractFileSystem
    fs, path = url_to_fs(url)
    return fs, path.rstrip("/")


def _name(position: Position) -> str:
    return f"e{position.epoch:08d}-n{position.number:012d}"


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
