"""Recipes: from a file, with every mistake named."""

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from streams.cli import cli
from streams.config.builtin import RECIPES
from streams.config.load import from_table, load_recipe
from streams.config.recipe import Recipe
from streams.config.settings import BOOTSTRAP, REDIS_URL, from_environment
from streams.config.text import toml_value
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
        ("[join]\nclick_windw_ms = 5", "no such settings: join.click_windw_ms (did you mean click_window_ms?)"),
        ("[rankng]\nbatch_max = 5", "no such settings: rankng (did you mean ranking?)"),
        ("far_from_all = 5", "no such settings: far_from_all"),
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
        ("[model]\nevidence = ['categori']", "'categori', which is no slot (did you mean 'category'?)"),
        ("[model]\nevidence = ['segment']", "'segment', which is categorical and of the user"),
        ("[model]\ncrosses = [['segment', 'categry']]", ": 'categry', which is no slot (did you mean 'category'?)"),
        ("[model]\nstatistics = [['item', 'price']]", ": 'price', which is"),
        ("[model]\ncrosses = [['item'], ['item']]", "whatever the order of its slots; got ['item'], ['item']"),
        ("[model]\ncrosses = ['segment', 'category']", 'write [["segment", "category"]] for these together'),
        ("[model]\nstatistics = ['item']", 'model.statistics must be a list of lists of slots, got ["item"]'),
        ("[[model.slots]]\nname = 'item'\nside = 'ctx'", 'must be one of "user", "context", "candidate"'),
        ("[[model.slots]]\nname = 'i'\nside = 'user'\nkind = 'multi'", 'must be one of "categorical", "numeric"'),
        ("[training.learner.updates]\ntensors = {items = 'x'}", 'must be one of "float32", "bfloat16", "int8"'),
        ("[[model.slots]]\nname = '*'\nside = 'candidate'", "no slot may be called so"),
        ("[[model.slots]]\nname = 'item'\nside = 'candidate'", "slot 'item' must be of the item table, 'items'"),
        (
            "base = 'nothing'",
            "base must be one of ['default', 'demo', 'tiers'] or log:LOG (of a file log:MAPPING.toml)",
        ),
        ("base = 7", "base must be one of"),
        ("base = 'log:missing.toml'", "no column mapping missing.toml: neither in "),
        ("base = 'log:criteo'", "a log is obd"),
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
    with pytest.raises(StartError, match="a recipe is one of"):
        load_recipe("demos")
    (tmp_path / "folder.toml").mkdir()
    for name in ("missing.toml", "folder.toml"):
        with pytest.raises(StartError, match=rf"^no file at {tmp_path / name}; a recipe is one of"):
            load_recipe(str(tmp_path / name))


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


MAPPING = 'user = "visitor"\nitem = "product"\ntime = "ts"\nlabel = "bought"\nitem_columns = ["brand"]\n'
OF_LOG = 'base = "log:maps/shop.toml"\n[training]\nstep_s = 0.7\n'


def write_mapping(folder: Path) -> Path:
    (folder / "maps").mkdir(parents=True)
    (folder / "maps" / "shop.toml").write_text(MAPPING)
    return folder / "maps" / "shop.toml"


def test_the_recipe_of_a_log_may_be_a_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = load_recipe(f"log:{write_mapping(tmp_path)}")
    path = write(tmp_path, OF_LOG)
    monkeypatch.setenv(BOOTSTRAP, "nowhere:1")
    monkeypatch.setenv(REDIS_URL, "redis://nowhere:1/0")
    recipe = from_environment(recipe=path).recipe  # as a worker reads it
    assert recipe.training.step_s == 0.7
    assert replace(recipe, name=log.name, training=log.training) == log
    assert "training.step_s = 0.7" in CliRunner().invoke(cli, ["recipe", "show", "--recipe", path]).output


def test_a_mapping_that_is_not_beside_the_recipe_is_where_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mapping(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    assert load_recipe(write(tmp_path, OF_LOG)).model.name == "shop"


def test_all_events_of_a_log_count_whatever_the_slots(tmp_path: Path) -> None:
    write_mapping(tmp_path)
    path = write(tmp_path, OF_LOG + "[[model.slots]]\nname = 'item'\nside = 'candidate'\ntable = 'items'\n")
    assert load_recipe(path).model.evidence == ("item", "*")


SLOTS = [
    {"name": "item", "side": "candidate", "table": "items"},
    {"name": "segment", "side": "user"},
    {"name": "theme", "side": "candidate"},
    {"name": "price", "side": "candidate", "kind": "numeric"},
]


def shown(folder: Path, model: dict[str, object]) -> tuple[list[str], str]:
    """Comments of `tiderank recipe show`, and the rest of it."""
    path = write(folder, "\n".join(f"model.{name} = {toml_value(value)}" for name, value in model.items()))
    result = CliRunner().invoke(cli, ["recipe", "show", "--recipe", path])
    assert result.exception is None
    lines = result.output.splitlines()
    comments = [line for line in lines if line.startswith("#")]
    assert lines[: len(comments)] == comments
    return comments, "\n".join(lines[len(comments) :])


def test_what_does_not_fit_slots_of_ones_own_is_told(tmp_path: Path) -> None:
    comments, settings = shown(tmp_path, {"slots": SLOTS, "crosses": [["segment", "item"]]})
    assert comments == [
        '# model.evidence is the base\'s without what does not fit these slots: "category", "campaign", "advertiser"',
        '# model.statistics is the base\'s without what does not fit these slots: ["campaign"], ["category"], '
        '["segment", "category"]',
        '# no evidence, cross or statistic names "theme"',
    ]
    assert from_table(tomllib.loads(settings)) == load_recipe(str(tmp_path / "mine.toml"))


def test_nothing_is_told_of_what_a_file_names_itself(tmp_path: Path) -> None:
    assert shown(tmp_path, {"slots": SLOTS, "evidence": [], "crosses": [], "statistics": [["item"]]})[0] == []
    assert shown(tmp_path, {"width": 8})[0] == []
