"""Recipes: from a file, with every mistake named."""

from pathlib import Path

import pytest

from streams.errors import StartError
from streams.recipe import RECIPES, Recipe, from_table, load_recipe


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_built_in_recipes_hold_together(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.log.length >= recipe.model.max_log_length


def write(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


def test_a_file_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, 'base = "demo"\n[join]\nclick_window_ms = 7\n[ranking]\nvalue = "pctr"'))
    base = load_recipe("demo")
    assert (recipe.name, recipe.join.click_window_ms, recipe.ranking.value) == ("mine", 7, "pctr")
    assert recipe.join.attribution_window_ms == base.join.attribution_window_ms
    assert recipe.model.digest == base.model.digest


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[join]\nclick_windw_ms = 5", "no such settings: join.click_windw_ms"),
        ("[join]\nclick_window_ms = 'soon'", "join.click_window_ms"),
        ("[join]\nclick_window_ms = 0", "click_window_ms"),
        ("clock = 'sundial'", "clock"),
        ("[ranking]\nbatch_max = 0", "batch_max"),
        ("base = 'nothing'", "base must be one of"),
        ("[routing]\ntiers = ['huge']", "no tier 'huge'"),
        ("[routing]\ntiers = []\ncascades = []", "routing needs a plan"),
        ("[routing]\ntiers = ['light', 'light']", "must be unique"),
        ("[[routing.cascades]]\nfirst = 'light'\nthen = 'heavy'\nkeep = -1", "keep=-1"),
        ("[training]\nstep_s = -1.0", "step_s"),
        ("lateness_ms = -5", "lateness_ms"),
        ("[model]\nwidth = 0", "width >= 1"),
        ("[model]\nmax_position = 0", "max_position >= 1"),
        ("[model]\nslots = []", "needs a slot"),
        ("[[model.tiers]]\nname = 'light'\n[[model.tiers]]\nname = 'light'", "tier names must be unique"),
        ("this is not toml", "="),
        ("[[routing.cascades]]\nfirst = 'light'\nthen = 'heavy'\nkeep = 3\nkeeep = 4", "routing.cascades.keeep"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(StartError, match=r"mine\.toml") as caught:
        load_recipe(write(tmp_path, text))
    assert named in str(caught.value)


def test_a_name_that_is_neither_recipe_nor_file(tmp_path: Path) -> None:
    for name in ("demos", str(tmp_path / "missing.toml")):
        with pytest.raises(StartError, match="a recipe is one of"):
            load_recipe(name)


def test_model_slots_and_tiers_can_be_replaced() -> None:
    table = {
        "model": {
            "slots": [{"name": "item", "side": "candidate", "table": "items"}, {"name": "user", "side": "user"}],
            "tiers": [{"name": "only", "log_length": 16}],
        },
        "routing": {"tiers": ["only"], "cascades": []},
    }
    recipe: Recipe = from_table(table)
    assert [tier.name for tier in recipe.model.tiers] == ["only"]
    assert [plan.name for plan in recipe.routing.router_plans()] == ["only"]
