"""What a model's configuration refuses, with what must hold and what to do."""

from dataclasses import replace

import pytest

from ranker.config import ANY, CROSSES, ITEM, LOG, STATISTICS, ModelConfig, Slot, TableConfig
from tests.ranker.samples import tiny_model

CONFIG = tiny_model()
ROWLESS = (TableConfig(name="items", rows=0), TableConfig(name="shared"))


def with_item(slot: Slot) -> tuple[Slot, ...]:
    return tuple(slot if old.name == ITEM else old for old in CONFIG.slots)


@pytest.mark.parametrize("name", [LOG, CROSSES, STATISTICS])
def test_names_of_the_models_own_slots_and_tables_are_taken(name: str) -> None:
    for changes in (
        {"slots": (*CONFIG.slots, Slot(name=name, side="user"))},
        {"tables": (*CONFIG.tables, TableConfig(name=name))},
    ):
        with pytest.raises(ValueError, match=rf"'{name}' is the slot .*: call the configured one otherwise"):
            replace(CONFIG, **changes)


@pytest.mark.parametrize("evidence", [(), (ANY,), (ANY, ANY)])
@pytest.mark.parametrize("others", [CONFIG.slots, ()])
def test_no_slot_is_called_as_all_events_are(others: tuple[Slot, ...], evidence: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="'\\*' stands for all events of a log: no slot may be called so"):
        replace(CONFIG, slots=(*others, Slot(name=ANY, side="candidate")), evidence=evidence, crosses=())


@pytest.mark.parametrize("name", ["light/2", "/"])
def test_a_tiers_name_does_not_end_within_names_of_parameters(name: str) -> None:
    with pytest.raises(ValueError, match="tier names must be without '/'"):
        replace(CONFIG, tiers=(replace(CONFIG.tiers[0], name=name),))


def test_candidates_and_events_of_the_log_share_rows() -> None:
    astray = with_item(Slot(name=ITEM, side="candidate", table="shared"))
    message = "slot 'item' must be of the item table, 'items', .* got table 'shared': give the slot table = 'items'"
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, slots=astray)
    assert replace(CONFIG, slots=astray, item_table="shared").item_table == "shared"


def test_without_a_log_or_evidence_an_item_is_a_category_like_any_other() -> None:
    """As a column of a table is, which may be called so by chance."""
    unread: ModelConfig = replace(
        CONFIG, tiers=tuple(replace(tier, log_length=0, read_length=0) for tier in CONFIG.tiers), evidence=()
    )
    astray = with_item(Slot(name=ITEM, side="candidate", table="shared"))
    assert replace(unread, slots=astray).item_table == "items"
    with pytest.raises(ValueError, match="must be of the item table"):
        replace(unread, slots=astray, evidence=(ITEM,))


def test_what_an_item_is_needs_a_row_to_be_known_by() -> None:
    message = r"evidence of \['category'\] needs an item table with rows > 0, .* got 'items' with rows = 0"
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, tables=ROWLESS)
    assert replace(CONFIG, tables=ROWLESS, evidence=(ITEM, ANY)).evidence == (ITEM, ANY)


def test_a_plain_table_may_have_a_column_called_log() -> None:
    plain = replace(
        CONFIG, tiers=tuple(replace(tier, log_length=0, read_length=0) for tier in CONFIG.tiers), evidence=()
    )
    assert replace(plain, slots=(*plain.slots, Slot(name=LOG, side="candidate"))).slots[-1].name == LOG
