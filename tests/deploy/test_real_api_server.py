"""The objects that are sent to a real API server before the chart; `make test-api-server` starts the server itself."""

from pathlib import Path

import pytest

from tests.deploy.kubernetes_schemas import VERSIONS, violations
from tests.deploy.real_api_server import KINDS, definitions, running
from tests.deploy.test_chart import OPERATORS


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_accepts_the_definitions_of_the_operators_kinds(version: str) -> None:
    assert [found for each in definitions() for found in violations(each, version)] == []


def test_every_kind_of_an_operator_that_the_chart_uses_is_defined() -> None:
    assert {*KINDS.values()} == OPERATORS


def test_a_server_that_does_not_start_is_reported_with_its_log(tmp_path: Path) -> None:
    programs = {"etcd": "exec tail -f /dev/null", "kube-apiserver": 'echo "no such flag: $3"; exit 1'}
    for name, script in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(TimeoutError, match="no such flag: --cert-dir"), running(tmp_path):
        pass
