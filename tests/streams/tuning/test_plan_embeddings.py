"""The command on files and on a broker, by its own entry point."""

import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from pyarrow import csv, parquet

from ranker.inputs.hashing import hash64, salted
from ranker.planning.plan import SlotCounts
from ranker.recipes import demo_model
from streams.cli import cli
from streams.config.load import from_table
from streams.errors import StartError
from streams.kafka.connection import Kafka
from streams.local.stack import local_stack
from streams.tuning.plan_embeddings import count_file, count_served
from streams.wire.codec import encode
from streams.wire.messages import LogRef, ModelVersion, Served, ServedItem
from streams.wire.topics import SERVED, TOPICS


def tiderank(*arguments: str, bootstrap: str = "") -> Result:
    return CliRunner().invoke(cli, ["plan-embeddings", *arguments], env={"TIDERANK_BOOTSTRAP": bootstrap})


@pytest.fixture
def table(tmp_path: Path) -> pa.Table:
    rng = np.random.default_rng(0)
    return pa.table(
        {
            "item": [f"i{k}" for k in rng.zipf(1.3, 3_000) % 500],
            "user": pa.array(rng.integers(0, 300, 3_000)),
            "vip": [bool(k) for k in rng.integers(0, 2, 3_000)],
            "tags": [["a", "b"][: k % 3] for k in range(3_000)],
            "price": rng.random(3_000),
            "click": rng.integers(0, 2, 3_000),
        }
    )


def by_name(counts: list[SlotCounts]) -> dict[str, SlotCounts]:
    return {slot.name: slot for slot in counts}


def served(number: int, users: int = 20, items: int = 30) -> Served:
    return Served(
        response_id=f"r{number}",
        request_id=f"q{number}",
        user=f"u{number % users}",
        surface="feed",
        event_ms=3_600_000 * number,
        log=LogRef(generation=1, count=0),
        features={"segment": "s"},
        context={"device": f"d{number % 2}"},
        items=[ServedItem(item=f"i{(number + k) % items}", features={"category": f"c{k}"}) for k in range(3)],
        plan="light",
        tier="light",
        model=ModelVersion(epoch=1, number=1),
    )


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_columns_are_counted_as_slots(kind: str, table: pa.Table, tmp_path: Path) -> None:
    path = tmp_path / f"log.{kind}"
    table = table if kind == "parquet" else table.drop_columns("tags")
    (parquet.write_table if kind == "parquet" else csv.write_csv)(table, path)
    counts = by_name(count_file(str(path), demo_model(), 10_000, skip=("click",)))
    assert {name: slot.table for name, slot in counts.items()} == {
        "item": "items",
        "user": "shared",
        "vip": "shared",
    } | ({"tags": "shared"} if kind == "parquet" else {})
    assert (counts["user"].occurrences, counts["user"].distinct()) == (3_000, (300, 0))
    assert counts["item"].distinct()[0] == len(set(table["item"].to_pylist()))
    if kind == "parquet":
        assert counts["tags"].counts().tolist() == [2_000, 1_000, 1_000]  # a, b, none


def test_keys_of_a_file_are_those_of_serving(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    parquet.write_table(pa.table({"user": ["u1", None, "u1"], "age": [30, 31, 31]}), path)
    counts = by_name(count_file(str(path), demo_model(), 100))
    for name, texts in (("user", ["u1", ""]), ("age", ["31", "30"])):
        keys, found = counts[name]._frequent.items()
        wanted = salted(np.array([hash64(text) for text in texts], np.uint64), name)
        assert (keys.tolist(), found.tolist()) == (wanted.tolist(), [2, 1])


def test_served_records_are_counted_by_slot() -> None:
    counts = by_name(count_served((served(i) for i in range(700)), demo_model(), 1_000))
    assert (counts["user"].occurrences, counts["user"].distinct()) == (700, (20, 0))
    assert (counts["item"].occurrences, counts["item"].distinct()) == (2_100, (30, 0))
    assert (counts["hour"].distinct()[0], counts["surface"].distinct()[0], counts["device"].distinct()[0]) == (24, 1, 2)
    assert counts["category"].counts().tolist() == [700] * 3
    assert counts["campaign"].distinct()[0] == 1  # it was never sent: the missing category


def test_the_toml_is_the_tables_of_a_recipe(table: pa.Table, tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    parquet.write_table(table.select(["user", "vip"]), path)
    done = tiderank("--from", str(path), "--budget-mb", "1", "--toml")
    recipe = from_table({"base": "demo"} | tomllib.loads(done.stdout))
    assert done.exit_code == 0
    # A small table has a quarter more rows than keys, and nothing was seen of the items' table: it stays.
    assert {t.name: t.rows for t in recipe.model.tables} == {"shared": 378, "items": 20_000}


def test_the_table_and_the_json_say_the_same(table: pa.Table, tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    parquet.write_table(table, path)
    text = tiderank("--from", str(path), "--skip", "click", "--budget-mb", "0.05").stdout
    plan = json.loads(tiderank("--from", str(path), "--skip", "click", "--budget-mb", "0.05", "--json").stdout)
    assert 0.9 * plan["budget_bytes"] < plan["nbytes"] <= plan["budget_bytes"] == round(0.05 * 2**20)
    lines = {tuple(line.split()[:2]): line.split() for line in text.splitlines() if line}
    for slot in plan["slots"]:
        assert lines[slot["name"], slot["table"]][-2:] == [f"{slot['covered']:.1%}", f"{slot['rows']:,}"]
    for planned in plan["tables"]:
        assert lines["=", planned["name"]][2:4] == [f"{planned['rows']:,}", f"{planned['tail_rows']:,}"]


@pytest.mark.parametrize(
    ("name", "content", "arguments", "message"),
    [
        ("no.csv", None, [], "no file at .*no.csv"),
        ("log.txt", "a\n1\n", [], "a table is a .parquet or .csv file"),
        ("log.csv", "", [], "is empty"),
        ("log.csv", "user,item\n", [], "no column of categories|no rows"),
        ("log.parquet", "not parquet", [], "cannot be read"),
        ("log.csv", "user\nu1\n", ["--column", "usr"], r"no columns \['usr'\]; there are \['user'\]"),
        ("log.csv", "user\nu1\n", ["--skip", "user"], "no column of categories"),
        ("log.csv", "price\n1.5\n", [], "no column of categories"),
        ("log.csv", "user\nu1\n", ["--budget-mb", "0.0001"], "bytes at least"),
        ("log.csv", "user,user\nu1,u1\n", [], r"got several of \['user'\]"),
    ],
)
def test_errors_say_what_is_wrong(
    name: str, content: str | None, arguments: list[str], message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    done = tiderank("--from", str(path), *arguments)
    assert isinstance(done.exception, StartError)
    assert re.search(message, str(done.exception)), done.exception


def test_a_parquet_file_that_is_garbled_in_the_middle_is_said_to_be(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    parquet.write_table(pa.table({"user": [f"u{k}" for k in range(20_000)]}), path)
    data = bytearray(path.read_bytes())
    data[len(data) // 4 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 4)
    path.write_bytes(data)
    assert f"{path} cannot be read: " in str(tiderank("--from", str(path)).exception)


def test_two_columns_of_one_name_are_refused_in_parquet_too(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    parquet.write_table(pa.table([["a"], ["b"]], names=["user", "user"]), path)
    assert "got several of ['user']" in str(tiderank("--from", str(path)).exception)


def test_structures_are_left_out_and_refused_where_they_are_named(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    columns = {
        "tags": pa.array([["a", "b"]] * 5, pa.large_list(pa.string())),
        "pair": pa.array([["a", "b"]] * 5, pa.list_(pa.string(), 2)),
        "vector": [[0.5]] * 5,
        "struct": [{"a": 1}] * 5,
        "structs": [[{"a": 1}]] * 5,
        "lists": [[["a"]]] * 5,
        "map": pa.array([[("a", 1)]] * 5, pa.map_(pa.string(), pa.int64())),
    }
    parquet.write_table(pa.table(columns), path)
    counts = by_name(count_file(str(path), demo_model(), 100))
    assert {name: slot.occurrences for name, slot in counts.items()} == {"tags": 10, "pair": 10}
    for name in ("struct", "structs", "lists", "map"):
        message = str(tiderank("--from", str(path), "--column", name).exception)
        assert re.search(f"column '{name}' is of type .*, neither a number, a time nor a text: flatten it", message)


def test_a_column_that_is_text_far_down_is_text_from_the_beginning(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user\n" + "007\n" * 900_000 + "u1\n")
    (counts,) = count_file(str(path), demo_model(), 100)
    assert counts.distinct() == (2, 0)
    wanted = salted(np.array([hash64(text) for text in ("007", "u1")], np.uint64), "user")
    assert counts._frequent.items()[0].tolist() == wanted.tolist()


def test_hashes_that_only_uint64_holds_are_told_apart_in_csv_too(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    csv.write_csv(pa.table({"hash": np.uint64(2**64 - 100) + np.arange(90, dtype=np.uint64) % 30}), path)
    (counts,) = count_file(str(path), demo_model(), 100)
    assert counts.distinct() == (30, 0)


@pytest.mark.e2e
def test_an_empty_topic_and_then_one_with_traffic(tmp_path: Path) -> None:
    with local_stack(tmp_path, broker="memory") as stack:
        kafka = Kafka(stack.bootstrap, {})
        kafka.create_topics()
        empty = tiderank(bootstrap=kafka.bootstrap)
        assert isinstance(empty.exception, StartError)
        assert "ranking.served holds nothing to count" in str(empty.exception)
        producer = kafka.producer()
        for i in range(50):
            producer.produce(SERVED, encode(TOPICS[SERVED], served(i)))
        producer.produce(SERVED, b"not a message")
        producer.flush()
        plan = json.loads(tiderank("--json", "--budget-mb", "1", bootstrap=kafka.bootstrap).stdout)
        assert {s["name"]: s["occurrences"] for s in plan["slots"]}["item"] == 150


def test_without_an_address_it_says_what_to_set() -> None:
    assert "TIDERANK_BOOTSTRAP must be set" in str(tiderank().exception)
