"""One real help desk for all clients."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.running_example import EXAMPLE, RunningExample, run_example


@pytest.fixture(scope="session")
def help_desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningExample]:
    home = tmp_path_factory.mktemp("home")
    # Nothing here is about adapters, and their tests take minutes on a busy machine.
    environment = {"POINTSMAN_LORA_PROBE_INTERVAL_SECONDS": "3600", "POINTSMAN_LORA_SMOKE_TEST": "off"}
    with run_example(Path(shutil.copytree(EXAMPLE, home / "helpdesk")), home, environment) as it:
        yield it
