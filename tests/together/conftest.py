"""One real help desk for all tests of this folder, run by `pointsman up`: Valkey, retriever, vLLM and gateway."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.running_example import EXAMPLE, RunningExample, run_example

ENVIRONMENT = {"POINTSMAN_LORA_PROBE_INTERVAL_SECONDS": "3600"}
"""Disables probes, because tests compare exact answers: in bfloat16 a batch of two rounds differently from a batch of
one, and that can change the order of nearly equal tokens."""


@pytest.fixture(scope="session")
def help_desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningExample]:
    """Runs the help desk with a copy of its configuration, which a test may edit."""
    home = tmp_path_factory.mktemp("home")
    with run_example(Path(shutil.copytree(EXAMPLE, home / "helpdesk")), home, ENVIRONMENT) as it:
        yield it
