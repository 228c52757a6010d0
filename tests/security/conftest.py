"""The services under attack, shared by all tests of a process."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pointsman_cli.processes import alive_processes, process_tree

from tests.security.target import Addresses

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def target() -> Iterator[Addresses]:
    """Starts the processes of `make target`, and stops them at the end."""
    program = [sys.executable, "-m", "tests.security.target"]
    with subprocess.Popen(program, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        try:
            yield Addresses(**json.loads(process.stdout.readline()))
        finally:
            processes = process_tree(process.pid)
            process.send_signal(signal.SIGINT)
            code = process.wait(timeout=60)
    assert (code, alive_processes(processes)) == (0, ())
    assert len(processes) >= 6, "itself, Valkey, the retriever, the lora-server, its engine, and the gateway"
