"""The metrics, their page, the alert rules and the dashboard name the same things."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ledger.service.metrics import METRICS, metric_rows
from tests.conftest import PROMTOOL
from tests.service.serving import event, serving_new

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "ledger.json"
NAMES = {f"ledger_{metric.name}": metric for metric in METRICS}


def used(text: str) -> set[str]:
    """The names of our metrics in an expression or a page."""
    return set(re.findall(r"\bledger_[a-z_]+", text))


def labels(text: str) -> set[str]:
    """The labels by which an expression or a text selects, groups or names."""
    found = re.findall(r"\$labels\.(\w+)|\bby \((\w+)\)|\{\{(\w+)\}\}|[{,](\w+)=", text)
    return {name for names in found for name in names if name}


def test_metrics_names_units_and_help_are_those_of_the_page(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    for name, kind, names, help_ in metric_rows():
        assert f"| {name} | {kind} | {names} | {help_} |" in page
    for name, metric in NAMES.items():
        assert name.endswith("_total") == (metric.kind == "counter"), name
    with serving_new(tmp_path) as ledger:
        assert ledger.append(event()).status == 200
        text = ledger.ask("/metrics").text
    told = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    assert told == {name: metric.kind for name, metric in NAMES.items()}
    assert used(text) == NAMES.keys()


def test_alerts_ask_for_metrics_that_there_are_and_say_what_to_do() -> None:
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    names = [rule["alert"] for rule in group["rules"]]
    assert len(set(names)) == len(names)
    for rule in group["rules"]:
        metrics = used(rule["expr"])
        assert metrics <= NAMES.keys(), rule
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert set(rule["annotations"]) == {"summary", "action"}
        known = {"instance", "job", *(each for name in metrics for each in NAMES[name].labels)}
        assert labels(rule["expr"] + rule["annotations"]["summary"]) <= known, rule
        if any(NAMES[name].kind == "counter" for name in metrics):
            assert rule["expr"].startswith("increase("), rule


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    board: dict[str, Any] = json.loads(DASHBOARD.read_text())
    places = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        places.add((place["x"], place["y"]))
        for target in panel["targets"]:
            metrics = used(target["expr"])
            assert metrics, panel
            assert metrics <= NAMES.keys(), panel
            known = {"instance", *(each for name in metrics for each in NAMES[name].labels)}
            assert labels(target["expr"] + target["legendFormat"]) <= known, panel
            for name in metrics:
                is_counter = NAMES[name].kind == "counter"
                assert (f"rate({name}" in target["expr"]) == is_counter, panel
    assert len(places) == len(board["panels"])


@pytest.mark.promtool
def test_prometheus_reads_the_metrics_and_the_rules(tmp_path: Path) -> None:
    with serving_new(tmp_path) as ledger:
        assert ledger.append(event()).status == 200
        text = ledger.ask("/metrics").text
    for arguments, data in ((["metrics"], text), (["rules", str(ALERTS)], "")):
        command = [str(PROMTOOL), "check", *arguments]
        done = subprocess.run(command, input=data, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr or done.stdout
