"""Runs `pointsman up` with the real engine for the length of a test."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.ports import free_address

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "helpdesk"
POINTSMAN = Path(sys.executable).parent / "pointsman"
MAX_START_SECONDS = 420
"""Time limit of a start in seconds. The first start also creates the models."""


@dataclass(frozen=True)
class RunningExample:
    """A running example, with the addresses that applications use; `run` has the others."""

    url: str
    grpc: str
    run: dict[str, Any]
    """The content of `run.json`: addresses and process ids."""
    home: Path
    config: Path
    """The configuration folder."""


@contextmanager
def run_example(
    source: Path | tuple[str, ...], home: Path, environment: Mapping[str, str] | None = None
) -> Iterator[RunningExample]:
    """Runs an example: that in the folder `source`, or the one that `source` describes as options of `up`.

    `home` is created if it is missing, and `environment` is added to this process's environment.
    """
    named, folder = (source, home) if isinstance(source, tuple) else ((str(source),), source)
    home.mkdir(exist_ok=True)
    (ROOT / ".pointsman" / "models").mkdir(parents=True, exist_ok=True)
    (home / "models").symlink_to(ROOT / ".pointsman" / "models")  # shared by all runs
    http, grpc = free_address(), free_address()
    command = [str(POINTSMAN), "up", *named, "--data-dir", str(home), "--http", http, "--grpc", grpc]
    with (home / "up.log").open("wb") as log:
        up = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=os.environ | dict(environment or {}))
        try:
            yield RunningExample(f"http://{http}", grpc, _wait_for_run_file(home, up), home, folder / "config")
        finally:
            up.send_signal(signal.SIGINT)
            code = up.wait(timeout=90)
    assert code == 0, (home / "up.log").read_text()


def _wait_for_run_file(home: Path, up: "subprocess.Popen[bytes]") -> dict[str, Any]:
    deadline = time.monotonic() + MAX_START_SECONDS
    while time.monotonic() < deadline and up.poll() is None:
        if (home / "run.json").exists():
            run: dict[str, Any] = json.loads((home / "run.json").read_text())
            return run
        time.sleep(0.2)
    raise AssertionError(f"pointsman up did not come up:\n{(home / 'up.log').read_text()[-4000:]}")
