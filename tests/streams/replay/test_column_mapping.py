"""Files as logs: what a mapping reads, and what it says of a file or a mapping that is wrong."""

from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from streams.datasets.logs.columns import PLACES, load_mapping
from streams.datasets.logs.files import file_log
from streams.datasets.logs.sources import open_log
from streams.datasets.logs.traffic import LoggedImpression
from streams.errors import StartError
from streams.wire.messages import MAX_RETURNED

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
    log = file_log(str(tmp_path / "log.csv"), load_mapping(mapping_file), "shop")
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
    assert list(file_log(str(tmp_path / "log.parquet"), load_mapping(mapping_file), "shop").read()) == EXPECTED


def test_times_with_a_zone_are_understood(tmp_path: Path, mapping_file: Path) -> None:
    mapping_file.write_text(MAPPING + 'time_unit = "iso"\n')
    text = CSV.replace("1700000010", "2023-11-14T23:13:30+01:00").replace("1700000000", "2023-11-14 22:13:20")
    (tmp_path / "log.csv").write_text(text)
    assert list(file_log(str(tmp_path / "log.csv"), load_mapping(mapping_file), "shop").read()) == EXPECTED


def test_a_missing_column_is_named_beside_those_that_are_there(tmp_path: Path, mapping_file: Path) -> None:
    (tmp_path / "log.csv").write_text(CSV.replace("product", "sku"))
    with pytest.raises(ValueError, match=r"log.csv has no column \['product'\]; it has \['visitor', 'sku'"):
        file_log(str(tmp_path / "log.csv"), load_mapping(mapping_file), "shop")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("v1,", ","), r"row 2: column 'visitor' is empty"),
        (("4.5,", "good,"), r"row 2: column 'stars' holds 'good'"),
        (("1700000000", "yesterday"), r"row 2: column 'ts' holds 'yesterday'"),
        ((",2,", ",-2,"), r"row 2: column 'slot' holds '-2'.*must be >= 0"),
        ((",2,", ",200,"), r"row 2: column 'slot' holds '200'.* below 200.* leave `position` out"),
        (("9.5", "cheap"), r"row 1: column 'price' holds 'cheap'"),
    ],
)
def test_a_wrong_cell_is_named(tmp_path: Path, mapping_file: Path, change: tuple[str, str], message: str) -> None:
    (tmp_path / "log.csv").write_text(CSV.replace(*change))
    with pytest.raises(StartError, match=message):
        list(file_log(str(tmp_path / "log.csv"), load_mapping(mapping_file), "shop").read())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("colour = 3", "mapping.toml: a mapping has no line `colour`; it may have user, item, time, label, "),
        ('positon = "slot"', "mapping.toml: .* no line `positon` .did you mean `position`..; it may have user, item"),
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
        file_log(str(tmp_path / "log.csv"), load_mapping(mapping_file), "shop")


@pytest.mark.parametrize("side", ["user", "item", "context"])
def test_a_feature_may_not_be_called_as_all_events_are(side: str, mapping_file: Path) -> None:
    lines = [line for line in MAPPING.splitlines() if not line.startswith(f"{side}_columns")]
    mapping_file.write_text("\n".join([*lines, f'{side}_columns = ["*", "price"]']))
    with pytest.raises(ValueError, match=r"mapping.toml: a feature must not be called '\*'.* rename that column"):
        load_mapping(mapping_file)


def test_positions_are_those_that_ingest_takes(tmp_path: Path, mapping_file: Path) -> None:
    assert PLACES == MAX_RETURNED
    assert read(tmp_path, mapping_file, CSV.replace(",2,", ",199,"))[0].position == 199


@pytest.mark.parametrize("folder", ["", "deep/er/"])
def test_a_log_is_called_as_its_file_and_its_model_as_the_mapping(
    folder: str, tmp_path: Path, mapping_file: Path
) -> None:
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / folder / "log.csv").write_text(CSV)
    log = open_log(str(tmp_path / folder / "log.csv"), mapping_file)
    assert (log.name, log.model.name) == ("log.csv", "mapping")


def test_a_file_that_is_said_to_be_sorted_and_is_not_is_refused(tmp_path: Path, mapping_file: Path) -> None:
    mapping_file.write_text(MAPPING + "sorted = true\n")
    (tmp_path / "log.csv").write_text(CSV)
    with pytest.raises(ValueError, match="row 2: time goes back from 1700000010000 to 1700000000000 ms"):
        list(file_log(str(tmp_path / "log.csv"), load_mapping(mapping_file), "shop").read())


def read(folder: Path, mapping_file: Path, text: str, *lines: str) -> list[LoggedImpression]:
    (folder / "log.csv").write_text(text)
    mapping_file.write_text("\n".join([MAPPING, *lines]))
    return list(file_log(str(folder / "log.csv"), load_mapping(mapping_file), "shop").read())


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("said", ["s", "ms", "us", "ns"])
def test_times_of_another_unit_are_refused_with_the_likely_one(
    unit: str, said: str, tmp_path: Path, mapping_file: Path
) -> None:
    zeros = {"s": "", "ms": "000", "us": "000000", "ns": "000000000"}[unit]
    text = CSV.replace("1700000010", f"1700000010{zeros}").replace("1700000000", f"1700000000{zeros}")
    if unit == said:
        assert read(tmp_path, mapping_file, text, f'time_unit = "{said}"') == EXPECTED
        return
    with pytest.raises(StartError, match=rf'log.csv: row 1: column .ts. holds .* it is 2023-11-14: .*"{unit}"$'):
        read(tmp_path, mapping_file, text, f'time_unit = "{said}"')


def test_a_log_may_begin_and_end_where_it_says(tmp_path: Path, mapping_file: Path) -> None:
    old = CSV.replace("1700000010", "10").replace("1700000000", "0")
    with pytest.raises(StartError, match=r"row 1: .* the year 1,970 .*: say time_unit|mend it, or say `earliest`"):
        read(tmp_path, mapping_file, old)
    rows = read(tmp_path, mapping_file, old, "earliest = 1970-01-01")
    assert [row.event_ms for row in rows] == [0, 10_000]
    mapping = load_mapping(mapping_file)
    assert file_log(str(tmp_path / "log.csv"), mapping, "shop").begins_ms == 0
    with pytest.raises(ValueError, match="earliest must be before latest"):
        read(tmp_path, mapping_file, CSV, "earliest = 2020-01-01", "latest = 2010-01-01")


def test_timestamps_know_their_unit_whatever_the_mapping_says(tmp_path: Path, mapping_file: Path) -> None:
    for kind in (pa.timestamp("s"), pa.timestamp("ms", "Europe/Berlin"), pa.timestamp("us"), pa.timestamp("ns")):
        (tmp_path / "log.csv").write_text(CSV)
        table = pyarrow.csv.read_csv(tmp_path / "log.csv")
        times = table["ts"].cast(pa.timestamp("s")).cast(kind)
        pq.write_table(table.set_column(2, "ts", times), tmp_path / "log.parquet")
        assert list(file_log(str(tmp_path / "log.parquet"), load_mapping(mapping_file), "shop").read()) == EXPECTED


@pytest.mark.parametrize("line", [1, 2])
@pytest.mark.parametrize(
    ("column", "word", "message"),
    [
        ("ts", "inf", "column 'ts' holds 'inf': every row needs a time, and a finite one"),
        ("ts", "nan", "column 'ts' is empty, or a word for null: every row needs a time"),
        ("stars", "nan", "column 'stars' is empty, or a word for null: every row needs a label"),
        ("stars", "inf", "column 'stars' holds 'inf': every row needs a label, and a finite one"),
        ("product", "None", "column 'product' is empty, or a word for null: every row needs a user and an item"),
        ("slot", "1.5", "column 'slot' holds '1.5': a position must be >= 0, and whole"),
    ],
)
def test_what_a_row_must_have(
    column: str, word: str, message: str, line: int, tmp_path: Path, mapping_file: Path
) -> None:
    rows = [row.split(",") for row in CSV.splitlines()]
    rows[line][rows[0].index(column)] = word
    text = "\n".join(",".join(row) for row in rows)
    with pytest.raises(StartError, match=f"log.csv: row {line}: {message}"):
        read(tmp_path, mapping_file, text)


def test_a_number_that_is_not_finite_is_a_missing_feature(tmp_path: Path, mapping_file: Path) -> None:
    for word in ("inf", "-inf", "nan", "\\N", "1e300"):
        rows = read(tmp_path, mapping_file, CSV.replace("9.5", word))
        assert [row.item_features for row in rows] == [{"brand": "acme"}] * 2


def test_ids_and_categories_are_integers_where_a_null_made_floats_of_them(tmp_path: Path, mapping_file: Path) -> None:
    text = CSV.replace("p1", "1.0").replace("p2", "2.0").replace("20s", "20.0")
    rows = read(tmp_path, mapping_file, text)
    assert [(row.item, row.user_features) for row in rows] == [("2", {}), ("1", {"age": "20"})]


def test_lists_are_sets_of_categories(tmp_path: Path, mapping_file: Path) -> None:
    (tmp_path / "log.csv").write_text(CSV)
    table = pyarrow.csv.read_csv(tmp_path / "log.csv")
    ages = pa.array([["20s", "new", None], []], pa.list_(pa.string_view()))
    pq.write_table(table.set_column(table.column_names.index("age"), "age", ages), tmp_path / "log.parquet")
    rows = list(file_log(str(tmp_path / "log.parquet"), load_mapping(mapping_file), "shop").read())
    assert [row.user_features for row in rows] == [{}, {"age": ["20s", "new"]}]


def test_labels_may_be_words_of_truth(tmp_path: Path, mapping_file: Path) -> None:
    text = CSV.replace(",3,", ",False,").replace(",4.5,", ",true,")
    (tmp_path / "log.csv").write_text(text)
    mapping_file.write_text(MAPPING.replace("click_at_least = 4", ""))
    rows = list(file_log(str(tmp_path / "log.csv"), load_mapping(mapping_file), "shop").read())
    assert [row.clicked for row in rows] == [True, False]


def test_labels_that_are_not_0_or_1_need_a_bound(tmp_path: Path, mapping_file: Path) -> None:
    (tmp_path / "log.csv").write_text(CSV)
    mapping_file.write_text(MAPPING.replace("click_at_least = 4", ""))
    with pytest.raises(StartError, match=r"must be 0 or 1; .*click_at_least"):
        list(file_log(str(tmp_path / "log.csv"), load_mapping(mapping_file), "shop").read())


def test_the_row_in_an_error_counts_on_over_batches(tmp_path: Path, mapping_file: Path) -> None:
    body = CSV.splitlines()[1]
    text = "\n".join([CSV.splitlines()[0], *[body] * 40_000, body.replace("1700000010", "inf")])
    with pytest.raises(StartError, match=r"log.csv: row 40001: column 'ts' holds 'inf'"):
        read(tmp_path, mapping_file, text)
