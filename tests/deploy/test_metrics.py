"""Prometheus's own linter reports no problem in the services' metrics, and the command reads those that exist."""

import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from pointsman_gateway.bootstrap import workers
from prometheus_client import CollectorRegistry, generate_latest

from tests.deploy.conftest import Exported

COMMAND = Path(__file__).parents[2] / "cli/src"
METRIC = re.compile(r"\"(pointsman_[a-z_]+)\"")
PACKAGES = {path.name for path in Path(__file__).parents[2].glob("*/*/src/pointsman_*")}


@pytest.mark.parametrize("service", ["gateway", "retriever", "lora-server"])
def test_promtool_finds_nothing_in_the_metrics(
    service: str, registries: Mapping[str, CollectorRegistry], tool: Callable[..., str]
) -> None:
    metrics = generate_latest(registries[service])
    assert metrics.count(b"# TYPE gen_ai_") >= 1
    checked = subprocess.run([tool("promtool"), "check", "metrics"], input=metrics, capture_output=True, timeout=60)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_the_command_reads_metrics_that_exist(exported: Exported) -> None:
    read = {name for file in COMMAND.rglob("*.py") for name in METRIC.findall(file.read_text())} - PACKAGES
    assert len(read) > 20
    unknown = {name for name in read if not any(known.startswith(name) for known in exported)}
    of_workers = Path(workers.__file__).read_text()  # the metrics of a gateway with several processes
    assert {name for name in unknown if f'"{name.removesuffix("_total")}"' not in of_workers} == set()
