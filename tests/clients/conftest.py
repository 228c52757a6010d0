"""One real help desk for all clients, and one with a scripted engine."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.running_example import EXAMPLE, ROOT, run_example


@dataclass(frozen=True)
class Addresses:
    url: str
    grpc: str


@pytest.fixture(scope="session")
def help_desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Addresses]:
    home = tmp_path_factory.mktemp("home")
    # Nothing here is about adapters, and their tests take minutes on a busy machine.
    environment = {"POINTSMAN_LORA_PROBE_INTERVAL_SECONDS": "3600", "POINTSMAN_LORA_SMOKE_TEST": "off"}
    with run_example(Path(shutil.copytree(EXAMPLE, home / "helpdesk")), home, environment) as it:
        yield Addresses(it.url, it.grpc)


@pytest.fixture(scope="session")
def scripted_help_desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Addresses]:
    folder = tmp_path_factory.mktemp("scripted")
    command = [sys.executable, "-m", "tests.clients.scripted_engine", str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        try:
            yield Addresses(**json.loads(next(line for line in process.stdout if line.startswith("{"))))
        finally:
            process.stdin.close()  # it stops
