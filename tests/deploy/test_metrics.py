"""Prometheus's own linter reports no problem in the services' metrics."""

import subprocess
from collections.abc import Callable, Mapping

import pytest
from prometheus_client import CollectorRegistry, generate_latest


@pytest.mark.parametrize("service", ["gateway", "retriever", "lora-server"])
def test_promtool_finds_nothing_in_the_metrics(
    service: str, registries: Mapping[str, CollectorRegistry], tool: Callable[..., str]
) -> None:
    said = generate_latest(registries[service])
    assert said.count(b"# TYPE gen_ai_") >= 1
    checked = subprocess.run([tool("promtool"), "check", "metrics"], input=said, capture_output=True, timeout=60)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
