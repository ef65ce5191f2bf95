"""Whether a recipe fits a log is known before anything is started."""

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from ranker.config import Slot
from streams.config.load import load_recipe
from streams.config.recipe import EventKinds, Recipe
from streams.datasets.logs.sources import open_log
from streams.datasets.logs.traffic import TrafficLog
from streams.errors import StartError
from streams.replay.command import replay_command
from streams.replay.recipe_fit import check_recipe, left_aside

MAPPING = """
user = "visitor"
item = "product"
time = "ts"
label = "bought"
user_columns = ["kind"]
item_columns = ["brand", "price"]
numeric_columns = ["price"]
"""
CSV = "visitor,product,ts,bought,kind,brand,price\nv,p,1000000000,1,k,b,3\n"
FIRST_MS = 10**12


@pytest.fixture
def shop(tmp_path: Path) -> tuple[TrafficLog, Recipe]:
    (tmp_path / "shop.csv").write_text(CSV)
    (tmp_path / "shop.toml").write_text(MAPPING)
    return open_log(str(tmp_path / "shop.csv"), tmp_path / "shop.toml"), load_recipe(f"log:{tmp_path / 'shop.toml'}")


def with_slots(recipe: Recipe, *slots: Slot) -> Recipe:
    ids = (Slot(name="user", side="user"), Slot(name="item", side="candidate", table="items"))
    return replace(recipe, model=replace(recipe.model, slots=(*ids, *slots), evidence=("item",), crosses=()))


def test_a_log_s_own_recipe_fits(shop: tuple[TrafficLog, Recipe]) -> None:
    log, recipe = shop
    check_recipe(recipe, log, first_ms=FIRST_MS, own="log:shop.toml")
    assert left_aside(recipe, log) == []


def test_a_recipe_may_leave_slots_aside_and_take_those_that_fill_themselves(shop: tuple[TrafficLog, Recipe]) -> None:
    log, recipe = shop
    other = with_slots(recipe, Slot(name="surface", side="context"), Slot(name="brand", side="candidate"))
    check_recipe(other, log, first_ms=FIRST_MS, own="log:shop.toml")
    assert left_aside(other, log) == ["kind", "price"]


@pytest.mark.parametrize(
    ("slot", "message"),
    [
        (Slot(name="age", side="user"), r"nothing in the rows fills its slots age \(user\)"),
        (Slot(name="brand", side="user"), "'brand' is of the user, and the rows give it with the candidate"),
        (Slot(name="hour", side="user"), "'hour' is of the user, and the rows give it with the context"),
        (Slot(name="price", side="candidate"), "'price' is categorical, and the rows give it as numeric"),
        (Slot(name="kind", side="user", kind="numeric"), "'kind' is numeric, and the rows give it as categorical"),
    ],
)
def test_a_slot_that_the_rows_do_not_fill_is_named(slot: Slot, message: str, shop: tuple[TrafficLog, Recipe]) -> None:
    log, recipe = shop
    with pytest.raises(StartError, match=rf'does not fit shop.csv: .*{message}.* `base = "log:shop.toml"`'):
        check_recipe(with_slots(recipe, slot), log, first_ms=FIRST_MS, own="log:shop.toml")


def test_settings_by_which_the_log_could_not_be_joined_are_named(shop: tuple[TrafficLog, Recipe]) -> None:
    log, recipe = shop
    wrong = replace(recipe, clock="live", min_event_ms=FIRST_MS + 1, kinds=EventKinds(clicks=("tap",)))
    with pytest.raises(
        StartError, match=r'clock must be "event".*min_event_ms must be at most.*2001-09-09.*kinds.clic'
    ):
        check_recipe(wrong, log, first_ms=FIRST_MS, own="log:shop.toml")


@pytest.mark.parametrize("name", ["TIDERANK_BOOTSTRAP", "TIDERANK_REDIS_URL"])
def test_a_house_of_its_own_is_refused_where_servers_are_named(
    name: str, tmp_path: Path, shop: tuple[TrafficLog, Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "127.0.0.1:1")
    result = CliRunner().invoke(
        replay_command, [str(tmp_path / "shop.csv"), "--map", str(tmp_path / "shop.toml"), "--up"]
    )
    assert isinstance(result.exception, StartError)
    assert f"and {name} name running ones" in str(result.exception)


@pytest.mark.parametrize("where", [["--up"], []])
def test_a_recipe_that_does_not_fit_is_refused_before_anything_is_started(
    where: list[str], tmp_path: Path, shop: tuple[TrafficLog, Recipe]
) -> None:
    log = ["--map", str(tmp_path / "shop.toml"), "--recipe", "default", *where]
    result = CliRunner().invoke(replay_command, [str(tmp_path / "shop.csv"), *log])
    assert isinstance(result.exception, StartError)
    assert "recipe default does not fit shop.csv: nothing in the rows fills its slots segment" in str(result.exception)
    assert result.output == ""
