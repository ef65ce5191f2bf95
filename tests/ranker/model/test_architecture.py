"""A model's digest stands for its code too: other parameters of the same configuration are another model."""

import hashlib
from dataclasses import replace

import pytest

from kernels.linear_compress import bind
from ranker.config import ARCHITECTURE, ModelConfig, Pruned, TierConfig
from ranker.config import model as config_module
from ranker.recipes import demo_model, three_tiers
from ranker.updates.image import new_image

EVERY_OPTION = replace(
    demo_model(),
    learns_late=True,
    tiers=(
        TierConfig(name="plain", layers=2, attentive=True, distilled=True, width=32, read_length=64),
        TierConfig(name="exact", form="exact", encoder="gated", encoder_layers=2, read_length=64),
        TierConfig(name="no log", log_length=0),
        TierConfig(name="pruned", pruned=(Pruned(mlp="item_dense.mlp", hidden=3),)),
    ),
)
FROZEN = {6: "ba5b18ec24476beb"}
"""Digest of the parameters, by version of the architecture."""


def parameters(*configs: ModelConfig) -> str:
    """Names, shapes and types of all that updates and snapshots carry."""
    lines = [
        f"{config.name} {name} {list(tensor.shape)} {tensor.dtype}"
        for config in configs
        for name, tensor in sorted(new_image(config, bind("decomposed")).dense.items())
    ]
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()


def test_whoever_changes_the_parameters_raises_the_version() -> None:
    assert parameters(demo_model(), three_tiers(), EVERY_OPTION) == FROZEN.get(ARCHITECTURE), (
        "the parameters of a model changed, and weights of before do not fit any more. Where its code makes other "
        "parameters of the same configuration: raise ARCHITECTURE in ranker/config/model.py, and freeze what stands "
        "on the left under it. Where the built-in configuration was changed: freeze it under the version there is, as "
        "that model has another digest by itself"
    )


def test_another_version_is_another_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    before = demo_model().digest
    monkeypatch.setattr(config_module, "ARCHITECTURE", ARCHITECTURE + 1)
    assert demo_model().digest != before


def test_the_digest_of_a_configuration_stays() -> None:
    """What came later is left out where it is not used."""
    assert demo_model().digest == "9ddbd06d0977daab", "fine where the demo's model was changed: then put in the new one"


def test_a_configuration_without_what_came_later_has_the_digest_of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 1 has no version in it, nor evidence, crosses, statistics and reading that are not used."""
    monkeypatch.setattr(config_module, "ARCHITECTURE", 1)
    tiers = tuple(replace(tier, encoder_layers=0) for tier in demo_model().tiers)
    assert replace(demo_model(), tiers=tiers, evidence=(), crosses=(), statistics=()).digest == "77c18c3341bf1f0b"
