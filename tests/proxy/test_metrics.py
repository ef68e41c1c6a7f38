"""Metrics: folding a batch says what observing each request would, and all processes speak with one voice."""

from __future__ import annotations

import os
import subprocess
import sys

from prometheus_client import REGISTRY, CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families

from gateway.proxy import metrics
from gateway.proxy.metrics import SECONDS, Observations
from gateway.proxy.record import record_of
from tests.proxy.exchanges import finished, route
from tests.running import ROOT


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0


def test_a_fold_equals_observing_each():
    values_ms = [0, 0.4, 1, 1.0001, 49, 50, 51, 29_999, 30_000, 30_001, 1e7]
    registry = CollectorRegistry()
    one_by_one = Histogram("seconds", "", ["route"], buckets=SECONDS, registry=registry)
    folded = Histogram("folded", "", ["route"], buckets=SECONDS, registry=registry)
    observations = Observations(folded, SECONDS)
    for value_ms in values_ms:
        one_by_one.labels("a").observe(value_ms / 1000)
        observations.add("a", value_ms)
    observations.flush()
    observations.flush()  # nothing twice
    expected, found = (
        {(s.name.partition("_")[2], s.labels.get("le")): s.value for s in family.samples if "created" not in s.name}
        for family in registry.collect()
    )
    assert found.keys() == expected.keys()
    assert all(abs(found[key] - expected[key]) < 1e-6 for key in expected)


def test_a_fold_counts_requests_outcomes_and_limits():
    name = "test-fold"
    labels = {"route": name, "method": "GET", "status_class": "4xx"}
    limited = sample("hydragate_requests_by_outcome_total", outcome="rate_limited")
    batch = [
        record_of(finished(route=route(name=name), status=429, outcome="rate_limited", upstream_ms=None)),
        record_of(finished(route=route(name=name))),
    ]
    metrics.fold(batch)
    assert sample("hydragate_http_requests_total", **labels) == 1
    assert sample("hydragate_rate_limited_total", route=name) == 1
    assert sample("hydragate_requests_by_outcome_total", outcome="rate_limited") == limited + 1
    assert sample("hydragate_request_duration_seconds_count", route=name) == 2
    assert sample("hydragate_gateway_duration_seconds_count", route=name) == 2
    assert sample("hydragate_upstream_duration_seconds_count", route=name) == 1


def test_words_of_a_request_never_become_labels():
    batch = [
        record_of(finished(route=None, method="BREW", status=0, outcome="ok", upstream_ms=None)),
        record_of(finished(route=None, method="get", status=999, outcome="made-up", upstream_ms=None)),
    ]
    metrics.fold(batch)
    assert sample("hydragate_http_requests_total", route="", method="OTHER", status_class="0xx") >= 2
    text = metrics.exposition().decode()
    assert "BREW" not in text
    assert "made-up" not in text


PROCESS = """
import sys
from gateway.proxy import metrics
from gateway.proxy.record import record_of
from tests.proxy.exchanges import finished
metrics.config_version(int(sys.argv[1]))
metrics.USAGE_SPOOL_BYTES.set(int(sys.argv[1]) * 100)
metrics.fold([record_of(finished()) for _ in range(int(sys.argv[1]))])
print("ready", flush=True)
sys.stdin.read()
"""
READER = """
import sys
from gateway.proxy import metrics
for pid in sys.argv[1:]:
    metrics.process_dead(int(pid))
sys.stdout.buffer.write(metrics.exposition())
"""


def test_processes_are_merged_and_the_dead_keep_their_counts_only(tmp_path):
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}

    def run(*arguments: str, **options) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", *arguments], env=environment, cwd=ROOT, **options)

    def read(*dead: int) -> dict[str, float]:
        with run(READER, *map(str, dead), stdout=subprocess.PIPE) as reader:
            text = reader.communicate()[0].decode()
        return {
            found.name: found.value
            for family in text_string_to_metric_families(text)
            for found in family.samples
            if found.labels.get("route", "orders") == "orders" and "le" not in found.labels
        }

    processes = []
    for number in ("2", "3"):
        process = run(PROCESS, number, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"ready\n"
        processes.append(process)
    both = read()
    processes[0].kill()
    for process in processes:
        process.communicate()
    one = read(processes[0].pid)
    assert both["hydragate_http_requests_total"] == one["hydragate_http_requests_total"] == 5
    assert both["hydragate_request_duration_seconds_count"] == 5
    assert both["hydragate_config_version"] == 2
    assert one["hydragate_config_version"] == 3
    assert both["hydragate_usage_spool_bytes"] == 300
