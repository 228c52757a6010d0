"""One real help desk for all tests of this folder, run by `pointsman up`: Valkey, retriever, vLLM and gateway."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.running_example import EXAMPLE, RunningExample, run_example

ENVIRONMENT = {"POINTSMAN_LORA_PROBE_INTERVAL_SECONDS": "3600"}
"""Disables probes, because tests compare exact answers: a batch of two rounds differently than a batch of one in
bfloat16, which can change near-ties."""


@pytest.fixture(scope="session")
def help_desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningExample]:
    """The help desk with a copy of the configuration, which a test may edit."""
    home = tmp_path_factory.mktemp("home")
    with run_example(Path(shutil.copytree(EXAMPLE, home / "helpdesk")), home, ENVIRONMENT) as it:
        yield it
