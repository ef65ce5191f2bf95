"""Recipes: from a file, with every mistake named."""

from pathlib import Path

import pytest

from streams.config.builtin import RECIPES
from streams.config.load import from_table, load_recipe
from streams.config.recipe import Recipe
from streams.errors import StartError


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


LIGHT = "[[model.tiers]]\nname = 'light'\n"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[join]\nclick_windw_ms = 5", "no such settings: join.click_windw_ms"),
        ("[join]\nclick_window_ms = 'soon'", "join.click_window_ms"),
        ("[join]\nclick_window_ms = 0", "click_window_ms"),
        ("clock = 'sundial'", "clock"),
        ("[ranking]\nbatch_max = 0", "batch_max"),
        ("[ranking]\nthompson_clicks = 0", "thompson_clicks must be > 0"),
        ("[model]\nstatistics = [['item', 'nothing']]", "a statistic names categorical slots"),
        ("[model]\nstatistics = [['item', 'price']]", "a statistic names categorical slots"),
        ("[model]\nstatistics = []\n[ranking]\nthompson_clicks = 3", "thompson_clicks needs the impressions of items"),
        ("[model]\nstatistic_rows = 0", "statistic_rows must be 1 to"),
        ("[model]\ncrosses = [['segment', 'nothing']]", "a cross names categorical slots"),
        ("[model]\nevidence = ['nothing']", "evidence is counted for categorical slots of candidates"),
        ("base = 'nothing'", "base must be one of"),
        ("[routing]\ntiers = ['huge']", "no tier 'huge'"),
        ("[routing]\ntiers = []\ncascades = []", "routing needs a plan"),
        ("[routing]\ntiers = ['light', 'light']", "must be unique"),
        ("[[routing.cascades]]\nfirst = 'light'\nthen = 'heavy'\nkeep = -1", "keep=-1"),
        ("[training]\nstep_s = -1.0", "step_s"),
        ("lateness_ms = -5", "lateness_ms"),
        ("[ranking]\nbatch_max = 1_000_000_000", "batch_max must be 1 to 10000"),
        ("[training]\nbatch_max = 1_000_000_000", "batch_max 1 to 100000"),
        ("[model]\nwidth = 0", "width must be 1 to 4096, got 0"),
        ("[model]\nwidth = 1_000_000", "width must be 1 to 4096, got 1000000"),
        ("[model]\nmax_position = 1_000_000_000_000", "max_position must be 1 to 10000, got 1000000000000"),
        ("[model]\nslots = []", "at least one slot"),
        ("[[model.tables]]\nname = 'items'\nrows = 1_000_000_000_000", "table 'items': rows must be 0 to 17179869184"),
        (f"{LIGHT}log_length = 1_000_000_000", "tier 'light': log_length must be 0 to 16384, got 1000000000"),
        (f"{LIGHT}layers = 100_000", "layers must be 1 to 256, got 100000"),
        (f"{LIGHT}hidden = 1_000_000_000", "hidden must be 1 to 131072"),
        (f"{LIGHT}user_tokens = 1", "user_tokens must be 2 to 4096, got 1"),
        (f"{LIGHT}pruned = [{{mlp = 'heads', hidden = 0}}]", "'heads' must keep hidden >= 1, got 0"),
        (f"{LIGHT}pruned = [{{mlp = 'a', hidden = 1}}, {{mlp = 'a', hidden = 2}}]", "each MLP is pruned once"),
        ("[[model.tiers]]\nname = 'light'\n[[model.tiers]]\nname = 'light'", "tier names must be unique"),
        ("[training.learner]\nconversions = 'magic'", "conversions"),
        ("[training.learner]\nconversions = 'naive'", "'naive' needs join.provisional = 'click', got 'none'"),
        ("[join]\nprovisional = 'click'", "'wait' needs join.provisional = 'none', got 'click'"),
        (
            "[join]\nprovisional = 'elapsed'\n[training.learner]\nconversions = 'defer'",
            "'defer' needs model.learns_late = true",
        ),
        ("[join]\nprovisional = 'elapsed'\nelapsed_ms = 0", "elapsed_ms must be > 0"),
        ("[join]\nclick_elapsed_ms = 0", "'wait' with 0, got 'es_dfm' and 0"),
        ("[training.learner]\nclicks = 'wait'", "'wait' with 0, got 'wait' and 2000"),
        ("[training.gate]\nstrange_tolerance = nan", "within ±2^53, which training.gate.strange_tolerance is not"),
        ("[training]\nstep_s = inf", "which training.step_s is not"),
        ("[join]\nclick_window_ms = 10_000_000_000_000_000_000_000", "which join.click_window_ms is not"),
        ("[training.gate]\nreopen_labels = 0", "reopen_labels must be >= 1"),
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
    assert recipe.model.evidence == ("item",)  # of the base's, what is still there


@pytest.mark.parametrize(
    "slot",
    [
        {"name": "category", "side": "user"},
        {"name": "category", "side": "candidate", "kind": "numeric"},
    ],
)
def test_evidence_that_is_not_named_asks_nothing_of_the_slots(slot: dict[str, str]) -> None:
    item = {"name": "item", "side": "candidate", "table": "items"}
    assert from_table({"model": {"slots": [item, slot]}}).model.evidence == ("item",)


def test_evidence_that_is_named_must_be_there() -> None:
    item = {"name": "item", "side": "candidate", "table": "items"}
    with pytest.raises(ValueError, match="evidence is counted for categorical slots of candidates, \\['item'\\]"):
        from_table({"model": {"slots": [item], "evidence": ["item", "category"]}})
