"""What `tiderank fit` prints and saves, and what `tiderank score` makes of it."""

import json
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from streams.errors import StartError
from tests.ranker.tabular.tables import clicks
from tests.streams.fit.running import files, fit, refused, run, write


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_fitted_model_is_saved_and_scores_as_it_was_graded(tmp_path: Path, suffix: str) -> None:
    train, valid, test = files(tmp_path, suffix)
    found = fit(train, "--valid", valid, "--test", test, "--model", tmp_path / "model")
    assert (found["graded_on"], found["interrupted"]) == ("test", False)
    assert found["rows"] == {"train": 1500, "valid": 400, "test": 400}
    assert {c["name"]: c["kind"] for c in found["columns"]} == {
        "user": "categorical",
        "genre": "categorical",
        "price": "numeric",
    }
    assert len(found["history"]) == found["epochs"] == 2
    out = tmp_path / f"scores{suffix}"
    scored = json.loads(run("score", tmp_path / "model", test, "--out", out, "--label", "click", "--json").stdout)
    assert scored["auc"] == pytest.approx(found["auc"], abs=1e-6)
    table = pq.read_table(out) if suffix == ".parquet" else pyarrow.csv.read_csv(out)
    label, p = table["click"].to_numpy(), table["p"].to_numpy()
    assert table.column_names == ["user", "genre", "price", "click", "p"]
    assert roc_auc_score(label, p) == pytest.approx(found["auc"], abs=1e-6)
    assert log_loss(label, p) == pytest.approx(found["logloss"], rel=1e-4)


def test_a_person_reads_columns_epochs_and_a_last_line(tmp_path: Path) -> None:
    train, valid, _ = files(tmp_path)
    result = run("fit", train, "--valid", valid, "--label", "click", "--epochs-max", 1)
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["user", "categorical", "string"]
    assert any(line.startswith("epoch   1  train log loss 0.") and "validation AUC 0." in line for line in lines)
    assert lines[-1].startswith("validation: AUC 0.")
    assert " log loss 0." in lines[-1]


def test_without_validation_a_seeded_share_is_held_out_and_said(tmp_path: Path) -> None:
    train, *_ = files(tmp_path)
    result = run("fit", train, "--label", "click", "--epochs-max", 1)
    assert f"1350 rows to learn from, 150 to validate: held out of {train} (seeded)" in result.stdout
    same, other = fit(train, "--seed", 1), fit(train, "--seed", 2)
    assert fit(train, "--seed", 1)["history"][0]["valid"] == same["history"][0]["valid"]
    assert other["history"][0]["valid"] != same["history"][0]["valid"]


def test_options_reach_the_model(tmp_path: Path) -> None:
    train, *_ = files(tmp_path)
    plain = fit(train, "--epochs-max", 1)
    found = fit(train, "--epochs-max", 1, "--layers", 2, "--embedding-width", 8, "--dropout", 0.5, "--ignore", "price")
    assert found["config"]["tier"]["layers"] == 2
    assert found["config"]["tier"]["dropout"] == 0.5
    assert found["parameters"]["rows"] < plain["parameters"]["rows"] / 2
    assert [column["name"] for column in found["columns"]] == ["user", "genre"]


def test_a_tier_sets_the_sizes_that_are_not_told(tmp_path: Path) -> None:
    train, *_ = files(tmp_path)
    found = {tier: fit(train, "--epochs-max", 1, "--tier", tier) for tier in ("light", "medium", "heavy")}
    sizes = [result["parameters"]["tier"] for result in found.values()]
    assert sizes == sorted(sizes)
    assert fit(train, "--epochs-max", 1)["config"]["tier"] == found["medium"]["config"]["tier"]
    told = fit(train, "--epochs-max", 1, "--tier", "heavy", "--layers", 1, "--tokens", 6)["config"]["tier"]
    expected = found["heavy"]["config"]["tier"] | {"layers": 1, "fm_tokens": 6, "compressed_tokens": 6}
    assert told == expected


def test_labels_may_be_booleans_or_text(tmp_path: Path) -> None:
    train = clicks(600)
    expected = fit(write(train, tmp_path / "numbers.parquet"))
    as_bool = train.set_column(3, "click", train["click"].cast(pa.bool_()))
    as_text = train.set_column(3, "click", train["click"].cast(pa.string()))
    for name, table in (("bool", as_bool), ("text", as_text)):
        assert fit(write(table, tmp_path / f"{name}.parquet"))["auc"] == expected["auc"]


def test_digits_that_were_text_in_training_stay_text(tmp_path: Path) -> None:
    zips = ["01234", "1234", "x"]
    table = clicks(900).append_column("zip", [[zips[i % 3] for i in range(900)]])
    fit(write(table, tmp_path / "train.parquet"), "--model", tmp_path / "model")
    half = write(table.filter(np.arange(900) % 3 < 2), tmp_path / "digits.csv")
    whole = write(table, tmp_path / "all.parquet")
    for path, out in ((half, "half.parquet"), (whole, "whole.parquet")):
        run("score", tmp_path / "model", path, "--out", tmp_path / out)
    expected = pq.read_table(tmp_path / "whole.parquet")["p"].to_numpy()[np.arange(900) % 3 < 2]
    np.testing.assert_allclose(pq.read_table(tmp_path / "half.parquet")["p"].to_numpy(), expected, rtol=1e-5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fitted")
    fit(write(clicks(900), folder / "train.parquet"), "--model", folder / "model")
    return folder


class TestOtherRows:
    def test_unseen_missing_and_infinite_values_are_scored(self, folder: Path) -> None:
        rows = pa.table(
            {
                "user": ["u1", "nobody", None, "u1"],
                "genre": ["g1", "unheard of", None, ""],
                "price": [20.0, float("inf"), None, float("nan")],
            }
        )
        run("score", folder / "model", write(rows, folder / "odd.parquet"), "--out", folder / "odd_scores.parquet")
        p = pq.read_table(folder / "odd_scores.parquet")["p"].to_numpy()
        assert ((p > 0) & (p < 1)).all()

    def test_unknown_columns_pass_through(self, folder: Path) -> None:
        rows = clicks(20).append_column("note", [["x"] * 20])
        run("score", folder / "model", write(rows, folder / "more.parquet"), "--out", folder / "more_scores.csv")
        assert pyarrow.csv.read_csv(folder / "more_scores.csv").column_names[-2:] == ["note", "p"]

    def test_one_class_is_graded_without_an_auc(self, folder: Path) -> None:
        rows = clicks(200)
        path = write(rows.filter(rows["click"].to_numpy() == 1), folder / "ones.parquet")
        assert "AUC n/a (labels of one class)" in run("score", folder / "model", path, "--label", "click").stdout

    def test_a_missing_column_is_named(self, folder: Path) -> None:
        path = write(clicks(20).drop_columns(["genre"]), folder / "less.parquet")
        message = refused("score", folder / "model", path, "--label", "click")
        assert message == f"{path}: the table lacks columns ['genre'], which the model was trained on"

    def test_text_where_numbers_were_is_refused(self, folder: Path) -> None:
        rows = clicks(3).set_column(2, "price", [["1", "2", "cheap"]])
        path = write(rows, folder / "words.parquet")
        assert "column 'price' was to hold numbers" in refused("score", folder / "model", path, "--label", "click")

    def test_a_model_that_is_none_is_refused(self, folder: Path) -> None:
        message = refused("score", folder, folder / "train.parquet", "--label", "click")
        assert "holds no model" in message
        assert "nothing to do" in refused("score", folder / "model", folder / "train.parquet")


def test_a_number_beyond_all_measure_counts_as_infinite(tmp_path: Path) -> None:
    train, *_ = files(tmp_path)
    table = pq.read_table(train)
    price = table["price"].to_numpy().copy()
    price[7], price[8] = np.finfo(np.float64).max, -1e39
    index = table.column_names.index("price")
    huge = write(table.set_column(index, "price", pa.array(price)), tmp_path / "huge.parquet")
    fit(huge, "--epochs-max", 1, "--model", tmp_path / "model")
    scored = json.loads(run("score", tmp_path / "model", huge, "--label", "click", "--json").stdout)
    assert np.isfinite(scored["logloss"])
    assert np.isfinite(scored["mean_p"])


def test_what_stood_at_out_stays_where_scores_cannot_be_written(tmp_path: Path) -> None:
    train, *_ = files(tmp_path)
    fit(train, "--epochs-max", 1, "--model", tmp_path / "model")
    table = pq.read_table(train)
    lists = write(table.append_column("list", pa.array([[1]] * len(table))), tmp_path / "lists.parquet")
    out = tmp_path / "scores.csv"
    out.write_text("kept")
    refused("score", tmp_path / "model", lists, "--out", out)
    assert out.read_text() == "kept"
    assert list(tmp_path.glob(".scores*")) == []


def test_a_file_that_is_not_utf8_is_said_to_be_so(tmp_path: Path) -> None:
    body, head = tmp_path / "body.csv", tmp_path / "head.csv"
    body.write_bytes("a,click\né,0\nb,1\n".encode("latin-1"))
    head.write_bytes("é,click\na,0\nb,1\n".encode("latin-1"))
    for path in (body, head):
        assert "UTF-8" in refused("fit", path, "--label", "click")


def test_scores_refuse_a_column_that_is_there_twice(tmp_path: Path) -> None:
    train, *_ = files(tmp_path)
    fit(train, "--epochs-max", 1, "--model", tmp_path / "model")
    path = tmp_path / "twice.csv"
    path.write_text("user,user,genre,price,click\nu1,u1,g1,1.0,1\n")
    assert "several of ['user']" in refused("score", tmp_path / "model", path, "--label", "click")


def test_words_for_null_are_those_that_the_model_was_fitted_with_unless_others_are_said(tmp_path: Path) -> None:
    rows = ["u,x,click"] + [f"u{i % 3},{'--' if i % 5 == 0 else i / 7},{i % 2}" for i in range(600)]
    path, empty = tmp_path / "dashes.csv", tmp_path / "empty.csv"
    path.write_text("\n".join(rows))
    empty.write_text(path.read_text().replace("--", ""))
    found = fit(path, "--null", "--", "--model", tmp_path / "model")
    assert [column["kind"] for column in found["columns"]] == ["categorical", "numeric"]
    scored = [
        json.loads(run("score", tmp_path / "model", f, "--label", "click", "--json").stdout) for f in (path, empty)
    ]
    assert scored[0] == scored[1]
    assert fit(empty)["history"][0]["valid"] == fit(path, "--null", "--")["history"][0]["valid"]
    with pytest.raises(StartError, match="'--'"):
        run("score", tmp_path / "model", path, "--label", "click", "--null", "nothing")


def test_hashes_that_only_uint64_holds_are_the_same_from_either_kind_of_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ids = np.uint64(2**64 - 500) + rng.permutation(400)[:40].astype(np.uint64)  # as floats all but one of them
    which = rng.integers(0, 40, 1500)
    click = (rng.random(1500) < np.where(which < 20, 0.8, 0.2)).astype(int)
    table = pa.table({"hash": pa.array(ids[which], mask=which == 7), "click": click})
    paths = [write(table, tmp_path / f"hashes{suffix}") for suffix in (".parquet", ".csv")]
    for trained in paths:
        found = fit(trained, "--model", tmp_path / "model")
        assert found["columns"] == [{"name": "hash", "kind": "categorical", "reason": "string"}]
        scores = [
            json.loads(run("score", tmp_path / "model", path, "--label", "click", "--json").stdout)["auc"]
            for path in paths
        ]
        assert scores[0] == scores[1] > 0.7


def test_floats_of_a_csv_file_stay_floats_however_large(tmp_path: Path) -> None:
    path = tmp_path / "large.csv"
    path.write_text("x,click\n" + "".join(f"{i % 180}e17,{i % 2}\n" for i in range(900)))
    assert "column 'x' holds whole numbers beyond 2^53" in refused("fit", path, "--label", "click")
    assert fit(path, "--numeric", "x")["columns"][0]["kind"] == "numeric"


@pytest.mark.parametrize(
    ("option", "warned"), [("--valid", "rows that were learned"), ("--test", "rows that were learned"), (None, "")]
)
def test_one_file_in_two_roles_is_warned_of(tmp_path: Path, option: str | None, warned: str) -> None:
    train, valid, test = files(tmp_path)
    (again := tmp_path / "again.parquet").symlink_to(train)
    roles = {"--valid": valid, "--test": test} | ({option: again} if option else {})
    words = [word for role in roles.items() for word in role]
    result = run("fit", train, "--label", "click", "--epochs-max", 1, *words)
    expected = f"warning: {option} is the same file as TRAIN: its figures are of {warned}"
    assert result.stderr.startswith(expected if option else "")
    assert result.stderr.count("warning: ") == (1 if option else 0)


def test_test_rows_that_also_validate_are_warned_of(tmp_path: Path) -> None:
    train, valid, _ = files(tmp_path)
    result = run("fit", train, "--valid", valid, "--test", valid, "--label", "click", "--epochs-max", 1)
    assert "warning: --test is the same file as --valid: its figures are of the rows that chose" in result.stderr


def test_a_model_that_could_not_be_saved_is_not_trained(tmp_path: Path) -> None:
    train, *_ = files(tmp_path)
    message = refused("fit", train, "--label", "click", "--model", train)
    assert "must be a folder" in message


@pytest.mark.parametrize(
    "option", [("--rate", "nan"), ("--embedding-l2", "inf"), ("--seed", "-1"), ("--layers", "3000")]
)
def test_options_are_finite_and_bounded(tmp_path: Path, option: tuple[str, str]) -> None:
    train, *_ = files(tmp_path)
    with pytest.raises(click.BadParameter) as caught:
        run("fit", train, "--label", "click", *option)
    assert caught.value.param is not None
    assert option[0] in caught.value.param.opts
