"""The help desk run by `pointsman up` with the real engine, keys, a cache and metrics."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.running_example import EXAMPLE, POINTSMAN, RunningExample, run_example


@dataclass(frozen=True)
class HelpDesk:
    url: str
    grpc: str
    key: str
    narrow_key: str
    """A key that allows two requests per minute."""
    targets: dict[str, str]
    """By service, the address that Prometheus scrapes."""
    config: Path
    engine_port: str

    def change_configuration(self) -> None:
        """Changes the configuration in a way that does not affect routing: it raises `max_tokens` of a rarely used
        path.
        """
        _edit(self.config / "paths.yaml", ("paths", "small_talk", "max_tokens"), 61)

    def kill_engine(self) -> None:
        """Sends SIGKILL to vLLM's own process; its lora-server restarts it, which takes longer than an alert's
        `for`.
        """
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
def run_help_desk(home: Path, agent: str) -> Iterator[HelpDesk]:
    """Runs the help desk in the empty folder `home`. `agent` is the URL to which it sends traces."""
    example = Path(shutil.copytree(EXAMPLE, home / "helpdesk"))
    _edit(example / "config" / "models.yaml", ("cache",), {"usd_per_hit": 1e-7})
    _edit(example / "config" / "paths.yaml", ("paths", "handbook_answer", "cache"), {"exact": True})
    settings = {
        "POINTSMAN_GATEWAY_AUTH": "on",
        # One slot for two adapters: each request loads its adapter and evicts the other one.
        "POINTSMAN_LORA_HELD": "1",
        "POINTSMAN_LORA_MAX_LORAS": "1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": agent,
    }
    with run_example(example, home, settings) as it:
        yield _house(it)


def _house(it: RunningExample) -> HelpDesk:
    addresses = {
        "gateway": it.run["gateway_metrics"],
        "retriever": it.run["retriever_metrics"],
        "lora-server": it.run["lora_server_metrics"],
        "engine": it.run["engine"],
    }
    targets = {job: url.removeprefix("http://").removesuffix("/metrics") for job, url in addresses.items()}
    keys = _key(it.home), _key(it.home, "--requests-per-minute", "2")
    return HelpDesk(it.url, it.grpc, *keys, targets, it.config, targets["engine"].rpartition(":")[2])


def _key(home: Path, *limits: str) -> str:
    command = [str(POINTSMAN), "keys", "create", "--tenant", "larkmoor", *limits, "--data-dir", str(home), "--json"]
    return str(json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)["key"])


def _edit(path: Path, keys: tuple[str, ...], value: object) -> None:
    written = yaml.safe_load(path.read_text())
    inner = written
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(yaml.safe_dump(written, sort_keys=False))
