"""Files as logs: what a mapping reads, and what it says of a file or a mapping that is wrong."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streams.replay.files import file_log
from streams.replay.log import LoggedImpression
from streams.replay.mapping import load_mapping

MAPPING = """
user = "visitor"
item = "product"
time = "ts"
label = "stars"
click_at_least = 4
position = "slot"
user_columns = ["age"]
item_columns = ["brand", "price"]
context_columns = ["device"]
numeric_columns = ["price"]
"""
CSV = """visitor,product,ts,stars,slot,age,brand,price,device,unused
v2,p1,1700000010,3,0,20s,acme,9.5,phone,x
v1,p2,1700000000,4.5,2,,acme,,tablet,x
"""
EXPECTED = [
    LoggedImpression("v1", "p2", 1700000000000, True, 2, {}, {"brand": "acme"}, {"device": "tablet"}),
    LoggedImpression(
        "v2", "p1", 1700000010000, False, 0, {"age": "20s"}, {"brand": "acme", "price": 9.5}, {"device": "phone"}
    ),
]


@pytest.fixture
def mapping_file(tmp_path: Path) -> Path:
    path = tmp_path / "mapping.toml"
    path.write_text(MAPPING)
    return path


def test_a_csv_file_is_read_in_the_order_of_time(tmp_path: Path, mapping_file: Path) -> None:
    (tmp_path / "log.csv").write_text(CSV)
    log = file_log(tmp_path / "log.csv", load_mapping(mapping_file), "shop")
    assert list(log.read()) == EXPECTED
    assert [(s.name, s.side, s.kind) for s in log.model.slots] == [
        ("user", "user", "categorical"),
        ("item", "candidate", "categorical"),
        ("hour", "context", "categorical"),
        ("age", "user", "categorical"),
        ("device", "context", "categorical"),
        ("brand", "candidate", "categorical"),
        ("price", "candidate", "numeric"),
    ]


def test_a_parquet_file_says_the_same(tmp_path: Path, mapping_file: Path) -> None:
    table = pa.table(
        {
            "visitor": ["v2", "v1"],
            "product": ["p1", "p2"],
            "ts": [1700000010, 1700000000],
            "stars": [3.0, 4.5],
            "slot": [0, 2],
            "age": ["20s", None],
            "brand": ["acme", "acme"],
            "price": [9.5, None],
            "device": ["phone", "tablet"],
        }
    )
    pq.write_table(table, tmp_path / "log.parquet")
    assert list(file_log(tmp_path / "log.parquet", load_mapping(mapping_file), "shop").read()) == EXPECTED


def test_times_with_a_zone_are_understood(tmp_path: Path, mapping_file: Path) -> None:
    mapping_file.write_text(MAPPING + 'time_unit = "iso"\n')
    text = CSV.replace("1700000010", "2023-11-14T23:13:30+01:00").replace("1700000000", "2023-11-14 22:13:20")
    (tmp_path / "log.csv").write_text(text)
    assert list(file_log(tmp_path / "log.csv", load_mapping(mapping_file), "shop").read()) == EXPECTED


def test_a_missing_column_is_named_beside_those_that_are_there(tmp_path: Path, mapping_file: Path) -> None:
    (tmp_path / "log.csv").write_text(CSV.replace("product", "sku"))
    with pytest.raises(ValueError, match=r"log.csv has no column \['product'\]; it has \['visitor', 'sku'"):
        file_log(tmp_path / "log.csv", load_mapping(mapping_file), "shop")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("v1,", ","), r"line 2: column 'visitor' is empty"),
        (("4.5,", "good,"), r"line 2: column 'stars' holds 'good'"),
        (("1700000000", "yesterday"), r"line 2: column 'ts' holds 'yesterday'"),
        ((",2,", ",-2,"), r"line 2: column 'slot' holds '-2'.*must be >= 0"),
        (("9.5", "cheap"), r"line 1: numeric column 'price' holds 'cheap'"),
    ],
)
def test_a_wrong_cell_is_named(tmp_path: Path, mapping_file: Path, change: tuple[str, str], message: str) -> None:
    (tmp_path / "log.csv").write_text(CSV.replace(*change))
    with pytest.raises(ValueError, match=message):
        list(file_log(tmp_path / "log.csv", load_mapping(mapping_file), "shop").read())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("colour = 3", "mapping.toml: .*unknown field `colour`"),
        ('time_unit = "h"', "mapping.toml: .*time_unit"),
        ("candidates = 500", r"mapping.toml: candidates must be in 1\.\.200"),
        ("click_window_s = 0.0", "mapping.toml: click_window_s must be > 0"),
        ("= 3", "mapping.toml: "),
    ],
)
def test_a_wrong_mapping_is_refused(mapping_file: Path, line: str, message: str) -> None:
    mapping_file.write_text(f"{MAPPING}{line}\n")
    with pytest.raises(ValueError, match=message):
        load_mapping(mapping_file)


def test_a_mapping_without_a_label_is_refused(mapping_file: Path) -> None:
    mapping_file.write_text(MAPPING.replace("label", "#"))
    with pytest.raises(ValueError, match="missing required field `label`"):
        load_mapping(mapping_file)


def test_a_numeric_column_that_no_side_has_is_refused(mapping_file: Path) -> None:
    mapping_file.write_text(MAPPING.replace('item_columns = ["brand", "price"]', 'item_columns = ["brand"]'))
    with pytest.raises(ValueError, match=r"numeric_columns names \['price'\]"):
        load_mapping(mapping_file)


def test_features_may_not_take_the_names_of_slots_that_fill_themselves(tmp_path: Path, mapping_file: Path) -> None:
    mapping_file.write_text(MAPPING.replace("device", "surface"))
    (tmp_path / "log.csv").write_text(CSV.replace("device", "surface"))
    with pytest.raises(ValueError, match=r"must not be named \['surface'\]"):
        file_log(tmp_path / "log.csv", load_mapping(mapping_file), "shop")


def test_a_file_that_is_said_to_be_sorted_and_is_not_is_refused(tmp_path: Path, mapping_file: Path) -> None:
    mapping_file.write_text(MAPPING + "sorted = true\n")
    (tmp_path / "log.csv").write_text(CSV)
    with pytest.raises(ValueError, match="line 2: time goes back from 1700000010000 to 1700000000000 ms"):
        list(file_log(tmp_path / "log.csv", load_mapping(mapping_file), "shop").read())
