"""The published image: exactly what every replica holds after a given update.

A replica's weights are an image, and so is what the trainer keeps of what it published. So an old replica, a new one
and the image at the same number are equal bit for bit: they went through the same `apply`.
"""

# R rows of a table, D embedding width.

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from kernels.linear_compress import Compress
from ranker.arrays import I64, U64
from ranker.config import ModelConfig
from ranker.inputs.copies import Copies
from ranker.inputs.memory import check_memory
from ranker.inputs.tables import PlainTables
from ranker.model.tier import Tier
from ranker.updates.changes import TableChange
from ranker.updates.encoding import Encoded
from ranker.updates.log import Position
from ranker.updates.record import Update

Tiers = dict[str, Tier]
Tensors = dict[str, Tensor]
_NO_KEYS: U64 = np.empty(0, np.uint64)


class NotApplicable(Exception):
    """An update that does not fit the weights it is meant for. Nothing was changed."""


def build_tiers(config: ModelConfig, compress: Compress) -> Tiers:
    """Builds fresh tiers. Raises ValueError where their weights, or the tables beside them, would not fit in memory."""
    check_memory(config)
    return {tier.name: Tier(config, tier, compress=compress) for tier in config.tiers}


def dense_tensors(tiers: Tiers) -> dict[str, Tensor]:
    """Returns the tensors by tier and name in its state_dict, sharing memory with the tiers."""
    return {f"{name}/{key}": t for name, tier in tiers.items() for key, t in tier.state_dict().items()}


def new_image(config: ModelConfig, compress: Compress) -> "Image":
    """Makes an image that stands alone: what the trainer keeps of what it published."""
    return Image(config, dense_tensors(build_tiers(config, compress)))


class Image:
    """Weights at fixed addresses, and where in the log they stand; no position until the first update or load."""

    def __init__(self, config: ModelConfig, dense: dict[str, Tensor]) -> None:
        """dense: the tensors to hold the dense weights in, by name (see dense_tensors); the tables go beside them."""
        self._device = next(iter(dense.values())).device
        self.tables = PlainTables(config, self._device)
        self.dense = dense
        self.position: Position | None = None
        self.watermark_ms = 0
        self.offsets: dict[str, int] = {}
        """Next offset of training.examples by partition: what these weights have learned."""
        self.after_change: Callable[[], None] = lambda: None
        """Called by whatever changed the weights, right after the change: copies of them are to be refreshed."""
        self._config = config

    @torch.no_grad()
    def apply(self, update: Update, position: Position) -> None:
        """Change the weights in place; they then stand at `position` (of the follower that handed out the update).

        Raises NotApplicable, with nothing changed, if the update is not of this configuration's shapes, is not
        finite, gives away a row that another key holds, or is the first one and not a whole model.
        """
        header, changes = update.header, update.changes
        if header.digest != self._config.digest:
            raise NotApplicable(f"update of configuration {header.digest}, this is {self._config.digest}")
        if header.reset or self.position is None:
            if not header.reset:
                raise NotApplicable("the first update must be a whole model (reset); load an image first")
            if changes.dense.keys() != self.dense.keys():
                raise NotApplicable(
                    f"a reset must hold every dense tensor, lacks {self.dense.keys() - changes.dense.keys()}"
                )
        dense = self._checked_dense(changes.dense)
        values = {
            name: self._checked_values(name, change, reset=header.reset) for name, change in changes.tables.items()
        }
        _check_small_finite(
            {f"dense/{name}": tensor for name, tensor in dense.items()}
            | {f"rows/{name}/values": rows_KD for name, (rows_KD, _) in values.items()}
            | {f"tails/{name}/values": tails_WD for name, (_, tails_WD) in values.items()}
        )
        if header.reset:
            self.tables.reset()
        for name, change in changes.tables.items():
            self._write_table(name, change, *values[name])
        if dense:
            torch._foreach_copy_([self.dense[name] for name in dense], list(dense.values()))
        self.position = position
        self.watermark_ms = header.watermark_ms
        self.offsets = dict(header.offsets)
        self.after_change()

    def tensors(self) -> Tensors:
        """All that decides a score, by name, in one form: equal for equal images, however they came to be.

        Copies. Keys are ascending; a row that no key has is left out, for nobody reads it.
        """
        return self.copied(Copies())()

    def copied(self, copies: Copies) -> Callable[[], Tensors]:
        """Copies what tensors() would give now; the function that it returns sorts it, in another thread if need be.

        Copying is far quicker than sorting. The copy holds until the next one into the same `copies`.
        """
        dense = {f"dense/{name}": tensor.to("cpu", copy=True) for name, tensor in self.dense.items()}
        tables = {
            name: (
                self.tables.key_maps[name].copied_keys(copies, f"image/{name}"),
                copies.tensor(f"image/{name}/weights", weights),
            )
            for name, weights in self.tables.weights.items()
        }
        catalogue = self.tables.catalogue
        entry_RS = copies.array("image/catalogue", catalogue.entry_RS)

        def tensors() -> Tensors:
            out = dict(dense)
            for name, (keys, weights) in tables.items():
                keys_K, rows_K = map(torch.from_numpy, keys.items())
                out[f"rows/{name}/keys"], out[f"rows/{name}/rows"] = keys_K, rows_K
                out[f"rows/{name}/values"] = weights[rows_K]
                out[f"tails/{name}/values"] = weights[len(keys.taken) :]
                if name == catalogue.table and catalogue.slots:
                    out[f"catalogue/{name}/values"] = torch.from_numpy(entry_RS[rows_K.numpy()])
            return out

        return tensors

    @torch.no_grad()
    def load(
        self, tensors: dict[str, Tensor], position: Position, *, watermark_ms: int, offsets: dict[str, int]
    ) -> None:
        """Inverse of tensors(), in place. Raises NotApplicable, with nothing changed, if they are not of this shape."""
        self._check_names(tensors)
        for name in self.dense:
            self._check_shape(f"dense/{name}", tensors[f"dense/{name}"], self.dense[name].shape)
        for name, weights in self.tables.weights.items():
            count = len(tensors[f"rows/{name}/keys"])
            rows = self.tables.key_maps[name].num_rows
            self._check_shape(f"rows/{name}/values", tensors[f"rows/{name}/values"], (count, weights.shape[1]))
            self._check_shape(
                f"tails/{name}/values", tensors[f"tails/{name}/values"], (len(weights) - rows, weights.shape[1])
            )
            self._check_keys(name, tensors[f"rows/{name}/keys"].numpy(), tensors[f"rows/{name}/rows"].numpy())
        _check_finite({name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()})
        catalogue = self.tables.catalogue
        if catalogue.slots:
            entries = tensors[f"catalogue/{catalogue.table}/values"]
            wanted = (len(tensors[f"rows/{catalogue.table}/keys"]), len(catalogue.slots))
            if tuple(entries.shape) != wanted or entries.dtype != torch.uint64:
                raise NotApplicable(f"the catalogue must be u64 {wanted}, got {entries.dtype} {list(entries.shape)}")
        for name, weights in self.tables.weights.items():
            key_map = self.tables.key_maps[name]
            rows_K = tensors[f"rows/{name}/rows"]
            key_map.clear()
            key_map.change(tensors[f"rows/{name}/keys"].numpy(), rows_K.numpy(), _NO_KEYS)
            weights[rows_K.to(self._device)] = tensors[f"rows/{name}/values"].to(self._device)
            weights[key_map.num_rows :] = tensors[f"tails/{name}/values"]
        if catalogue.slots:
            rows_K = tensors[f"rows/{catalogue.table}/rows"]
            catalogue.entry_RS[:] = 0
            catalogue.entry_RS[rows_K.numpy()] = tensors[f"catalogue/{catalogue.table}/values"].numpy()
        for name, tensor in self.dense.items():
            tensor.copy_(tensors[f"dense/{name}"])
        self.position, self.watermark_ms, self.offsets = position, watermark_ms, dict(offsets)
        self.after_change()

    def _check_names(self, tensors: dict[str, Tensor]) -> None:
        wanted = {f"dense/{name}" for name in self.dense} | {
            f"{kind}/{name}/{column}"
            for name in self.tables.weights
            for kind, column in (("rows", "keys"), ("rows", "rows"), ("rows", "values"), ("tails", "values"))
        }
        if self.tables.catalogue.slots:
            wanted.add(f"catalogue/{self.tables.catalogue.table}/values")
        if tensors.keys() != wanted:
            raise NotApplicable(f"an image of this configuration differs by {sorted(tensors.keys() ^ wanted)[:5]}")

    def _checked_dense(self, dense: dict[str, Encoded]) -> dict[str, Tensor]:
        """Checks names and shapes of the dense tensors; returns them decoded."""
        decoded = {}
        for name, encoded in dense.items():
            if name not in self.dense:
                raise NotApplicable(f"no dense tensor {name!r} in this configuration")
            decoded[name] = encoded.decode()
            self._check_shape(f"dense/{name}", decoded[name], self.dense[name].shape)
        return decoded

    def _checked_values(self, name: str, change: TableChange, *, reset: bool) -> tuple[Tensor, Tensor]:
        """Checks all of the change; returns its values of rows and of tail rows, decoded."""
        if name not in self.tables.weights:
            raise NotApplicable(f"no table {name!r} in this configuration, which has {sorted(self.tables.weights)}")
        key_map, weights = self.tables.key_maps[name], self.tables.weights[name]
        width, tail_rows = weights.shape[1], len(weights) - key_map.num_rows
        values_KD, tail_values_WD = change.values_KD.decode(), change.tail_values_WD.decode()
        for label, values, count in (
            ("rows", values_KD, len(change.keys_K)),
            ("tails", tail_values_WD, len(change.tails_W)),
        ):
            if count:
                self._check_shape(f"{label}/{name}/values", values, (count, width))
        if len(change.tails_W) and (change.tails_W.min() < 0 or change.tails_W.max() >= tail_rows):
            raise NotApplicable(f"tails of {name!r} must be in [0, {tail_rows}), got up to {change.tails_W.max()}")
        self._check_keys(name, change.keys_K, change.rows_K, change.evicted_V, held=not reset)
        self._check_catalogue(name, change, reset=reset)
        return values_KD, tail_values_WD

    def _check_catalogue(self, name: str, change: TableChange, *, reset: bool) -> None:
        keys_C, catalogue = change.catalogued_C, self.tables.catalogue
        if not len(keys_C):
            return
        wanted = (len(keys_C), len(catalogue.slots))
        if not catalogue.slots or name != catalogue.table or change.entry_CS.shape != wanted:
            raise NotApplicable(
                f"the catalogue is of table {catalogue.table!r} and slots {catalogue.slots}, an entry a key; "
                f"got {list(change.entry_CS.shape)} values for {len(keys_C)} keys of {name!r}"
            )
        staying = np.zeros(len(keys_C), np.bool_)
        if not reset:
            staying = (self.tables.key_maps[name].find(keys_C) >= 0) & ~np.isin(keys_C, change.evicted_V)
        if len(np.unique(keys_C)) != len(keys_C) or not (staying | np.isin(keys_C, change.keys_K)).all():
            raise NotApplicable(f"table {name!r}: catalogue entries must be of distinct keys that have a row")

    def _check_keys(self, name: str, keys: U64, rows: I64, evicted: U64 = _NO_KEYS, *, held: bool = False) -> None:
        try:
            self.tables.key_maps[name].check(keys, rows, evicted, held=held)
        except ValueError as exc:
            raise NotApplicable(f"table {name!r}: {exc}") from exc

    def _write_table(self, name: str, change: TableChange, values_KD: Tensor, tail_values_WD: Tensor) -> None:
        key_map, weights = self.tables.key_maps[name], self.tables.weights[name]
        if name == self.tables.catalogue.table:
            self.tables.catalogue.clear(change.rows_K[key_map.find(change.keys_K) != change.rows_K])
        key_map.change_checked(change.keys_K, change.rows_K, change.evicted_V)
        if len(change.catalogued_C):
            self.tables.catalogue.entry_RS[key_map.find(change.catalogued_C)] = change.entry_CS
        if len(change.keys_K):
            weights[torch.from_numpy(change.rows_K).to(self._device)] = values_KD.to(self._device)
        if len(change.tails_W):
            tails_W = torch.from_numpy(change.tails_W).to(self._device) + key_map.num_rows
            weights[tails_W] = tail_values_WD.to(self._device)

    def _check_shape(self, name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
        if tuple(tensor.shape) != tuple(shape) or not tensor.is_floating_point():
            raise NotApplicable(f"{name} must be float {list(shape)}, got {tensor.dtype} {list(tensor.shape)}")


def _check_finite(tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise NotApplicable(f"{name} is not finite")


def _check_small_finite(tensors: dict[str, Tensor]) -> None:
    """As _check_finite, in one pass over copies: an update has a hundred small tensors."""
    if tensors and not torch.isfinite(torch.cat([tensor.reshape(-1) for tensor in tensors.values()])).all():
        _check_finite(tensors)
