"""Runs `pointsman up` on the experiment's folder, on free ports and with its own data directory."""

import json
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.experiment.adapters import POINTSMAN
from benchmarks.experiment.folder import ROOT, read_rows
from benchmarks.gateway_load.machine import CannotMeasure, free_ports

_OF_THE_PATH = ("ok", "context_length_exceeded", "nothing_relevant")
"""Outcomes that count as the path's; other failures, such as a timeout, are the machine's."""

_MAX_START_SECONDS = 600.0
"""Time limit of a start. It takes about a second on two idle cores, plus the smoke test of each new adapter."""


def evaluate(dataset: Path, url: str, data_dir: Path, answers: Path, *options: str) -> None:
    """Runs `pointsman eval`; it resumes an interrupted run if there is one. Raises CannotMeasure if requests failed."""
    resume = "--resume" if answers.exists() else "--answers"
    command = ["eval", str(dataset), "--url", url, "--data-dir", str(data_dir), resume, str(answers), *options]
    subprocess.run([str(POINTSMAN), *command], cwd=ROOT, check=True)
    check_outcomes(answers)


def check_outcomes(answers: Path) -> None:
    """Raises CannotMeasure if the last answer to a row is a failure of the machine and not of the path."""
    last = {(row["row"], row["path"]): row["outcome"] for row in read_rows(answers)[1:]}
    failed = Counter(outcome for outcome in last.values() if outcome not in _OF_THE_PATH)
    if failed:
        codes = ", ".join(f"{code} {count}" for code, count in failed.items())
        raise CannotMeasure(f"{failed.total()} of {len(last)} requests failed ({codes}); the same command repeats them")


@contextmanager
def run_services(example: Path, data_dir: Path) -> Iterator[str]:
    """Yields the gateway's URL. Raises CannotMeasure if the gateway does not start."""
    data_dir.mkdir(parents=True, exist_ok=True)
    models = data_dir / "models"
    if not models.exists():
        models.symlink_to(ROOT / ".pointsman/models")
    http, grpc = free_ports(2)
    listeners = ["--http", f"127.0.0.1:{http}", "--grpc", f"127.0.0.1:{grpc}"]
    engine = ["--engine-python", str(ROOT / ".venv-engine/bin/python")]
    up = subprocess.Popen(
        [str(POINTSMAN), "up", str(example), "--data-dir", str(data_dir), *listeners, *engine], cwd=ROOT
    )
    try:
        _wait_for(data_dir / "run.json", up)
        yield f"http://127.0.0.1:{http}"
    finally:
        up.send_signal(signal.SIGINT)
        up.wait(timeout=90)


def _wait_for(run_file: Path, up: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _MAX_START_SECONDS
    while not _is_written_by(run_file, up.pid):
        if up.poll() is not None:
            raise CannotMeasure(f"pointsman up ended with exit code {up.returncode}")
        if time.monotonic() > deadline:
            raise CannotMeasure(f"pointsman up was not ready after {_MAX_START_SECONDS:g} s")
        time.sleep(0.5)


def _is_written_by(run_file: Path, pid: int) -> bool:
    try:
        return bool(json.loads(run_file.read_text("utf-8"))["pid"] == pid)
    except (FileNotFoundError, KeyError, ValueError):
        return False
