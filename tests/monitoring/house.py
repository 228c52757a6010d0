"""The help desk as `pointsman up` runs it, real engine and all, with keys, a cache and metrics to scrape."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "helpdesk"
POINTSMAN = Path(sys.executable).parent / "pointsman"

LONGEST_START = 420
"""Seconds; a first start also makes the models."""


@dataclass(frozen=True)
class House:
    url: str
    grpc: str
    key: str
    narrow_key: str
    """One that may ask twice a minute."""
    targets: dict[str, str]
    """Jobs to addresses, as Prometheus scrapes them."""
    config: Path
    engine_port: str

    def change_configuration(self) -> None:
        """In a way that moves no request: a longer answer of a path that few take."""
        _edit(self.config / "paths.yaml", ("paths", "small_talk", "max_tokens"), 61)

    def kill_engine(self) -> None:
        """As `kill -9` on vLLM's own process; its lora-server starts it again, which takes longer than an alert."""
        for process in Path("/proc").glob("[0-9]*"):
            try:
                arguments = (process / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if "vllm.entrypoints.openai.api_server" in arguments and self.engine_port in arguments:
                os.kill(int(process.name), signal.SIGKILL)
                return
        raise AssertionError(f"no engine runs on port {self.engine_port}")


@contextmanager
def running_house(home: Path, http: str, grpc: str, agent: str) -> Iterator[House]:
    """`home` is an empty folder, `http` and `grpc` are free addresses; `agent` is the URL that traces are sent to."""
    (ROOT / ".pointsman" / "models").mkdir(parents=True, exist_ok=True)
    (home / "models").symlink_to(ROOT / ".pointsman" / "models")  # made once, not once a run
    example = Path(shutil.copytree(EXAMPLE, home / "helpdesk"))
    _edit(example / "config" / "models.yaml", ("cache",), {"hit": 1e-7})
    _edit(example / "config" / "paths.yaml", ("paths", "handbook_answer", "cache"), {"exact": True})
    # One slot for two adapters: each is loaded when it is asked for, and lets the other go.
    settings = {"POINTSMAN_GATEWAY_KEYS": "on", "POINTSMAN_LORA_MAX_LORAS": "1", "OTEL_EXPORTER_OTLP_ENDPOINT": agent}
    environment = os.environ | settings
    command = [str(POINTSMAN), "up", str(example), "--home", str(home), "--http", http, "--grpc", grpc]
    with (home / "up.log").open("wb") as log:
        up = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=environment)
        try:
            run = _wait_for(home / "run.json", up, home / "up.log")
            yield _house(run, grpc, home, example / "config")
        finally:
            up.send_signal(signal.SIGINT)
            up.wait(timeout=90)


def _house(run: dict[str, Any], grpc: str, home: Path, config: Path) -> House:
    addresses = {
        "gateway": run["gateway_metrics"],
        "retriever": run["retriever_metrics"],
        "lora-server": run["lora_server_metrics"],
        "engine": run["engine"],
    }
    targets = {job: url.removeprefix("http://").removesuffix("/metrics") for job, url in addresses.items()}
    keys = _key(home), _key(home, "--requests-per-minute", "2")
    return House(run["http"], grpc, *keys, targets, config, targets["engine"].rpartition(":")[2])


def _key(home: Path, *limits: str) -> str:
    command = [str(POINTSMAN), "keys", "create", "--tenant", "larkmoor", *limits, "--home", str(home), "--json"]
    return str(json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)["key"])


def _edit(path: Path, keys: tuple[str, ...], value: object) -> None:
    written = yaml.safe_load(path.read_text())
    inner = written
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(yaml.safe_dump(written, sort_keys=False))


def _wait_for(run_file: Path, up: "subprocess.Popen[bytes]", log: Path) -> dict[str, Any]:
    deadline = time.monotonic() + LONGEST_START
    while time.monotonic() < deadline and up.poll() is None:
        if run_file.exists():
            run: dict[str, Any] = json.loads(run_file.read_text())
            return run
        time.sleep(0.2)
    raise AssertionError(f"pointsman up did not come up:\n{log.read_text()[-4000:]}")
