"""deploy/alerts.yml: its metrics exist, Prometheus takes it, and it speaks when it should."""

import re
import shutil
import subprocess
from pathlib import Path, PurePosixPath
from typing import Any
from unittest.mock import Mock

import pytest
import yaml
from prometheus_client import REGISTRY, Counter, Gauge, Histogram

from streams.cli import WORKERS
from streams.kafka.gaps import GapWatch
from streams.runtime import metrics as metric_names

ROOT = Path(__file__).parents[3]
ALERTS = ROOT / "deploy" / "alerts.yml"
RULES: list[dict[str, Any]] = [rule for g in yaml.safe_load(ALERTS.read_text())["groups"] for rule in g["rules"]]
SUFFIXES: dict[Any, tuple[str, ...]] = {Counter: ("_total",), Gauge: ("",), Histogram: ("_bucket", "_sum", "_count")}


def series() -> dict[str, tuple[str, ...]]:
    """Names under which Prometheus has the workers' metrics, each with its labels."""
    metrics: list[Any] = [m for m in vars(metric_names).values() if isinstance(m, tuple(SUFFIXES))]
    return {m._name + suffix: m._labelnames for m in metrics for suffix in SUFFIXES[type(m)]}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_metrics_that_there_are(rule: dict[str, Any]) -> None:
    known, asked = series(), re.findall(r"(tiderank_\w+)(?:\{(.*?)\})?", rule["expr"])
    assert asked
    for name, selector in asked:
        assert name in known
        assert set(re.findall(r"(\w+)(?:=|!=|=~|!~)\"", selector)) <= set(known[name])
    for label in re.findall(r"\$labels\.(\w+)", str(rule["annotations"])):
        assert all(label in known[name] for name, _ in asked)
    assert rule["annotations"].keys() == {"summary", "action"}


def test_what_an_alert_watches_for_a_rise_is_there_from_the_beginning() -> None:
    """Prometheus sees no rise in a series that first appears at 40, however little it was before."""
    rises = [rule["expr"] for rule in RULES if rule["expr"].endswith("> 0")]
    watched = {name for expr in rises for name in re.findall(r"increase\((tiderank_\w+)", expr)}
    assert len(watched) == 3
    for worker in WORKERS:
        metric_names.begin(worker)
    GapWatch(Mock()).start({("a topic", 0): 7})
    there = {sample.name for metric in REGISTRY.collect() for sample in metric.samples}
    assert watched <= there
    assert REGISTRY.get_sample_value("tiderank_records_missed_total", {"topic": "a topic"}) == 0
    assert REGISTRY.get_sample_value("tiderank_events_total", {"outcome": "implausible"}) is not None


def test_prometheus_reads_it() -> None:
    prometheus = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())
    volumes = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["prometheus"]["volumes"]
    places = {PurePosixPath(v.split(":")[1]): v.split(":")[0] for v in volumes}
    for name in prometheus["rule_files"]:
        assert (ROOT / places[PurePosixPath("/etc/prometheus") / name]).is_file()
    assert prometheus["rule_files"] == [ALERTS.name]


# Eight hours at 10 % clicks, then 5 labels in 100 are turned round: 10 % · 0.95 + 90 % · 0.05 = 14 %.
EXAMPLES = """
rule_files: [{alerts}]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - series: 'tiderank_examples_total{{kind="click",by="event",label="1"}}'
        values: '0+100x480 48100+{positive}x60'
      - series: 'tiderank_examples_total{{kind="click",by="window",label="0"}}'
        values: '0+900x480 432900+{negative}x60'
      - series: 'tiderank_examples_total{{kind="click",by="provisional",label="0"}}'
        values: '0+900x540'
    alert_rule_test:
      - {{alertname: TiderankLabelsShifted, eval_time: 7h50m, exp_alerts: []}}
      - alertname: TiderankLabelsShifted
        eval_time: 8h25m
        exp_alerts: [{alert}]
"""


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian's package prometheus)")
@pytest.mark.parametrize("poisoned", [0, 5])
def test_five_poisoned_labels_in_a_hundred_are_told(poisoned: int, tmp_path: Path) -> None:
    positive = 100 + 8 * poisoned
    alert = (
        "{exp_labels: {severity: page}, exp_annotations: {"
        "summary: Clicks are 40% more or less frequent than in the six hours before, "
        f"action: '{next(r['annotations']['action'] for r in RULES if r['alert'] == 'TiderankLabelsShifted')}'}}}}"
    )
    case = tmp_path / "case.yml"
    case.write_text(
        EXAMPLES.format(alerts=ALERTS, positive=positive, negative=1_000 - positive, alert=alert if poisoned else "")
    )
    subprocess.run(["promtool", "check", "rules", ALERTS], check=True)
    told = subprocess.run(["promtool", "test", "rules", case], check=False, capture_output=True, text=True)
    assert told.returncode == 0, told.stdout + told.stderr
