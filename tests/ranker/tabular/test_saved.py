"""A model on disk: it comes back the same, or not at all."""

import json
from pathlib import Path

import numpy as np
import pytest

from ranker.tabular.columns import find_columns
from ranker.tabular.config import FitConfig
from ranker.tabular.encoding import learn_encoder
from ranker.tabular.saved import load_model, save_model
from ranker.tabular.training import build_model
from tests.ranker.tabular.tables import clicks


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    table = clicks(300)
    encoder = learn_encoder(table, find_columns(table, label="click"), min_count=2, buckets=4)
    save_model(tmp_path / "model", build_model(encoder, FitConfig(), click_prior=0.3), encoder, label="click")
    return tmp_path / "model"


def test_a_loaded_model_predicts_what_the_saved_one_did(tmp_path: Path) -> None:
    table = clicks(300)
    encoder = learn_encoder(table, find_columns(table, label="click"), min_count=2, buckets=4)
    model = build_model(encoder, FitConfig(), click_prior=0.3)
    save_model(tmp_path, model, encoder, label="click")
    loaded, manifest = load_model(tmp_path)
    assert manifest.label == "click"
    assert manifest.encoder == encoder
    np.testing.assert_array_equal(loaded.predict(manifest.encoder.encode(table)), model.predict(encoder.encode(table)))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no model \(No such file or directory: .*manifest.json"):
        load_model(tmp_path)


def test_weights_that_were_changed_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"model.safetensors is not what was written with manifest.json"):
        load_model(folder)


def test_a_manifest_that_is_none_is_refused(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"format": "one"}')
    with pytest.raises(ValueError, match=r"manifest.json is not a manifest of a model"):
        load_model(folder)


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (("format",), 1, "is of format 1, this version reads 3: fit it anew"),
        (("config", "tiers", 0, "layers"), 2, "was changed"),
        (("config", "width"), -1, "is not a manifest of a model, or a torn one"),
        (("encoder", "categorical", 0, "vocabulary"), ["u1"], "was changed"),
        (("encoder", "categorical", 0, "vocabulary", 0), "u999", "was changed"),
        (("encoder", "numeric", 0, "std"), 0.0, "was changed"),
        (("encoder", "numeric", 0, "std"), -1.0, "was changed"),
        (("encoder", "numeric", 0, "mean"), float("nan"), "is not a manifest of a model, or a torn one"),
        (("encoder", "numeric", 0, "mean"), None, "is not a manifest of a model, or a torn one"),
        (("encoder", "numeric", 0, "edges"), [1.0], "was changed"),
        (("encoder", "numeric", 0, "edges", 0), 1e9, "was changed"),
        (("encoder", "numeric"), [], "was changed"),
    ],
)
def test_a_manifest_that_was_changed_is_refused(
    folder: Path, where: tuple[str | int, ...], value: object, message: str
) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    *outer, last = where
    inner = manifest
    for key in outer:
        inner = inner[key]
    inner[last] = value
    path.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=message):
        load_model(folder)
