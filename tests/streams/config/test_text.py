"""Recipes as text: what is shown makes the same recipe, and the reference is current."""

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from streams.cli import cli
from streams.config.builtin import RECIPES, default, demo
from streams.config.load import from_table
from streams.config.text import difference, reference, settings
from streams.errors import StartError

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_shown_makes_the_same_recipe(name: str) -> None:
    recipe = RECIPES[name]()
    text = "\n".join(f"{setting} = {value}" for setting, value in settings(recipe).items())
    assert from_table(tomllib.loads(text)) == recipe


def test_only_what_differs_is_told() -> None:
    changed = replace(demo(), lateness_ms=5)
    assert difference(demo(), demo()) == []
    assert difference(demo(), changed) == [("lateness_ms", "1000", "5")]
    frozen = replace(demo(), training=replace(demo().training, freeze_after=9))
    assert difference(demo(), frozen) == [("training.freeze_after", "–", "9")]


def test_the_reference_is_current() -> None:
    """If not: tiderank recipe reference > docs/recipe.md."""
    assert (ROOT / "docs" / "recipe.md").read_text() == reference()


def test_every_setting_of_a_recipe_is_in_the_reference() -> None:
    text = reference()
    for name in settings(default()):
        assert f"`{name.rpartition('.')[2]}`" in text


def test_a_recipe_that_is_none_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("lateness = 5")
    for words, reason in (
        (["show", "--recipe", str(wrong)], "no such settings: lateness"),
        (["diff", "demo", "demmo"], "a recipe is one of"),
    ):
        error = CliRunner().invoke(cli, ["recipe", *words]).exception
        assert isinstance(error, StartError)
        assert reason in str(error)
