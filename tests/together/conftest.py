"""One real help desk for all tests of this folder, through `pointsman up`: Valkey, retriever, vLLM, gateway."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "helpdesk"
LONGEST_START = 420
"""Seconds; a first start also makes the models."""


@dataclass(frozen=True)
class HelpDesk:
    url: str
    grpc: str
    run: dict[str, Any]
    """What `run.json` says: addresses and process ids."""
    config: Path
    """Its configuration folder, a copy that a test may edit."""


@pytest.fixture(scope="session")
def help_desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HelpDesk]:
    home = tmp_path_factory.mktemp("home")
    (ROOT / ".pointsman" / "models").mkdir(parents=True, exist_ok=True)
    (home / "models").symlink_to(ROOT / ".pointsman" / "models")  # made once, not once a run
    example = Path(shutil.copytree(EXAMPLE, home / "helpdesk"))
    http, grpc_address = _free_address(), _free_address()
    command = [str(Path(sys.executable).parent / "pointsman"), "up", str(example), "--home", str(home)]
    with (home / "up.log").open("wb") as log:
        up = subprocess.Popen([*command, "--http", http, "--grpc", grpc_address], cwd=ROOT, stdout=log, stderr=log)
        try:
            run = _wait_for(home / "run.json", up, home / "up.log")
            yield HelpDesk(f"http://{http}", grpc_address, run, example / "config")
        finally:
            up.send_signal(signal.SIGINT)
            code = up.wait(timeout=90)
    assert code == 0, (home / "up.log").read_text()


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def _wait_for(run_file: Path, up: "subprocess.Popen[bytes]", log: Path) -> dict[str, Any]:
    deadline = time.monotonic() + LONGEST_START
    while time.monotonic() < deadline and up.poll() is None:
        if run_file.exists():
            run: dict[str, Any] = json.loads(run_file.read_text())
            return run
        time.sleep(0.2)
    pytest.fail(f"pointsman up did not come up:\n{log.read_text()[-4000:]}")
