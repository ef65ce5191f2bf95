"""`tiderank tiers` prints one table, for people and for programs."""

import json

from click.testing import CliRunner

from streams.config.load import load_recipe
from streams.tuning.tiers import tiers_command


def test_the_table_has_a_line_for_each_tier() -> None:
    printed = CliRunner().invoke(tiers_command, ["--candidates", "10", "--repeats", "2"], catch_exceptions=False)
    for tier in load_recipe("default").model.tiers:
        assert any(line.split()[:2] == [tier.name, tier.form] for line in printed.output.splitlines())


def test_json_holds_operations_both_ways() -> None:
    args = ["--candidates", "10", "--repeats", "2", "--log-length", "20", "--json"]
    shown = json.loads(CliRunner().invoke(tiers_command, args, catch_exceptions=False).output)
    assert [tier["tier"] for tier in shown["tiers"]] == [t.name for t in load_recipe("default").model.tiers]
    for tier in shown["tiers"]:
        operations = tier["operations"]
        assert operations["executed"] == operations["request"] / 10 + operations["candidate"]
        assert operations["model_equivalent"] == operations["request"] + operations["candidate"]
