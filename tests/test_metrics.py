"""Metrics, the pages they are served on, and the Prometheus files beside them, against the real promtool."""

import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import generate_latest

import config
from detector.errors import SettingsError
from detector.metrics import Metrics, metrics_table
from detector.reports import CycleReport
from detector.settings import Settings, all_settings, load
from detector.web import Server, serve
from tests.servers import get, program, prometheus, query, until


@pytest.fixture
def metrics() -> Metrics:
    metrics = Metrics()
    metrics.cycle(
        CycleReport(
            events=7,
            rejects={"not_json": 2, "late": 1},
            duplicates=3,
            late=1,
            event_lags_s=np.array([0.5, 400.0]),
            scores=np.array([1.5, 25.0]),
            ps=np.array([0.5, 1e-5]),
            scoring_lags_s=np.array([3.0, 9.0]),
            threshold=0.01,
            alerts={"high": 1},
            event_clock=1.7e9,
            duration_s=0.2,
        )
    )
    return metrics


@pytest.fixture
def server(metrics: Metrics) -> Iterator[Server]:
    server = serve("127.0.0.1:0", metrics.registry, lambda: (True, "alive"), lambda: (False, "no cycle yet"))
    yield server
    server.close()


def test_a_report_becomes_metrics(metrics: Metrics) -> None:
    value = metrics.registry.get_sample_value
    assert value("unlike_events_total") == 7
    assert value("unlike_rejected_lines_total", {"reason": "not_json"}) == 2
    assert value("unlike_verdicts_total", {"alarming": "yes"}) == 1
    assert value("unlike_session_p_value_bucket", {"le": "0.0001"}) == 1
    assert value("unlike_alerts_total", {"severity": "critical"}) == 0


def test_pages_answer_and_others_do_not(server: Server) -> None:
    assert get(f"http://{server.address}/healthz") == (200, "alive\n")
    assert get(f"http://{server.address}/readyz") == (503, "no cycle yet\n")
    assert get(f"http://{server.address}/elsewhere")[0] == 404
    assert "unlike_events_total 7.0" in get(f"http://{server.address}/metrics")[1]


def test_a_silent_client_does_not_hold_up_the_others(server: Server) -> None:
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port))):
        assert get(f"http://{server.address}/healthz", 2)[0] == 200


@pytest.mark.parametrize("listen", ["nowhere", "127.0.0.1:99999", "127.0.0.1:http"])
def test_an_address_that_cannot_be_listened_on_is_a_settings_error(listen: str) -> None:
    with pytest.raises(SettingsError, match=r"metrics\.listen"):
        serve(listen, Metrics().registry, lambda: (True, ""), lambda: (True, ""))


def test_promtool_finds_no_fault_with_our_metrics(metrics: Metrics) -> None:
    checked = subprocess.run(
        [program("promtool"), "check", "metrics"], input=generate_latest(metrics.registry), capture_output=True
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


@pytest.mark.parametrize(
    "check", [["check", "config", "prometheus.yml"], ["check", "rules", "rules.yml"], ["test", "rules", "rules_test.yml"]]
)
def test_promtool_accepts_and_tests_our_files(check: list[str]) -> None:
    done = subprocess.run([program("promtool"), *check], cwd=config.path("."), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_name_only_metrics_that_there_are(metrics: Metrics) -> None:
    named = set(re.findall(r"unlike_\w+", "\n".join(re.findall(r"expr: (.*)", config.path("rules.yml").read_text()))))
    there = {sample.name for family in metrics.registry.collect() for sample in family.samples}
    there |= {f"{name}_bucket" for name in there}
    assert named
    assert named <= there


def test_every_rule_is_shown_to_fire() -> None:
    rules = set(re.findall(r"alert: (\w+)", config.path("rules.yml").read_text()))
    assert rules == set(re.findall(r"name: (\w+) fires", config.path("rules_test.yml").read_text()))


def test_no_metric_has_a_label_that_could_name_somebody(metrics: Metrics) -> None:
    labels = {name for family in metrics.registry.collect() for s in family.samples for name in s.labels}
    assert labels <= {
        "le",
        "reason",
        "alarming",
        "severity",
        "outcome",
        "sink",
        "state",
        "why",
        "answer",
        "task",
        "maturity",
        "of",
        "version",
        "id",
        "trained",
    }


def test_the_example_settings_are_the_defaults_and_name_every_key() -> None:
    example = load(config.path("unlike.toml"), environment={})
    assert example.source[0].path == "events.jsonl"
    assert load(config.path("unlike.toml"), environment={}, overrides=[]) == Settings(source=example.source)
    text = config.path("unlike.toml").read_text()
    for key, _ in all_settings():
        assert re.search(rf"^(# )?(\[+)?{key.rpartition('.')[2]}( =|\])", text, re.M), key


def test_a_real_prometheus_scrapes_us(server: Server, tmp_path: Path) -> None:
    with prometheus(tmp_path, server.address) as address:
        until(lambda: query(address, "unlike_events_total"), 30)
        assert str(query(address, "unlike_events_total")[0]["value"]).endswith("'7']")
        assert query(address, 'up{job="unlike"}')


def test_the_readme_tells_every_metric() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    assert metrics_table() in readme
