"""The services under attack, once for all tests of a process."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.security.target import Addresses

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def target() -> Iterator[Addresses]:
    """What `make target` starts."""
    program = [sys.executable, "-m", "tests.security.target"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(["tests/gateway", "tests/lora_server"])}
    with subprocess.Popen(program, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield Addresses(**json.loads(process.stdout.readline()))
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)
