"""A trained model on disk: weights as safetensors, all else in a JSON manifest that names their digest.

Nothing is unpickled, and a directory whose parts do not fit together is refused, not guessed at.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec
import safetensors.torch

from ranker.config import ModelConfig
from ranker.tabular.encoding import Encoder
from ranker.tabular.model import TabularModel

FORMAT = 3
MANIFEST, WEIGHTS = "manifest.json", "model.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    format: int = FORMAT
    label: str
    """Name of the label's column in training."""
    encoder: Encoder
    config: ModelConfig
    null_words: tuple[str, ...] = ()
    """Texts that stood for no value in training."""
    digest: str
    """Digest of all of the above but `format`: a model whose statistics a hand or a disk has changed is refused."""
    weights_blake2b: str


def save_model(
    folder: Path, model: TabularModel, encoder: Encoder, *, label: str, null_words: tuple[str, ...] = ()
) -> None:
    """Write the model into the folder, which is made; one that is there is replaced. The manifest is written last."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = safetensors.torch.save({name: t.contiguous() for name, t in model.state_dict().items()})
    manifest = Manifest(
        label=label,
        encoder=encoder,
        config=model.config,
        null_words=null_words,
        digest=_manifest_digest(label, encoder, model.config, null_words),
        weights_blake2b=_digest(weights),
    )
    (folder / WEIGHTS).write_bytes(weights)
    partial = folder / f"{MANIFEST}.part"
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
    partial.replace(folder / MANIFEST)


def load_model(folder: Path) -> tuple[TabularModel, Manifest]:
    """Raises ValueError where the folder holds no model, or one whose parts do not fit together."""
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
        weights = (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise ValueError(
            f"{folder} holds no model ({error.strerror}: {error.filename}); `tiderank fit` makes one"
        ) from error
    except (msgspec.MsgspecError, ValueError) as error:
        raise ValueError(
            f"{folder / MANIFEST} is not a manifest of a model, or a torn one: {error}; fit it anew"
        ) from error
    if manifest.format != FORMAT:
        raise ValueError(f"{folder} is of format {manifest.format}, this version reads {FORMAT}: fit it anew")
    if manifest.digest != _manifest_digest(manifest.label, manifest.encoder, manifest.config, manifest.null_words):
        raise ValueError(f"{folder / MANIFEST} was changed since it was written: bring it back, or fit it anew")
    if _digest(weights) != manifest.weights_blake2b:
        raise ValueError(f"{folder / WEIGHTS} is not what was written with {MANIFEST}: fit it anew")
    model = TabularModel(manifest.config)
    model.load_state_dict(safetensors.torch.load(weights))
    model.eval()
    return model, manifest


def _manifest_digest(label: str, encoder: Encoder, config: ModelConfig, null_words: tuple[str, ...]) -> str:
    return _digest(msgspec.json.encode((label, encoder, config.digest, null_words)))


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
