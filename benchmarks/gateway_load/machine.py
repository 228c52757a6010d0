"""The machine: its cores, free ports, installed tools, and its description."""

import os
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PEERS = ROOT / ".venv-bench/gateway/bin"
PORTKEY = ROOT / ".venv-bench/portkey/node_modules/@portkey-ai/gateway/build/start-server.js"
MODEL = ROOT / ".pointsman/models/minilm"

HOW_TO_INSTALL = {
    "nginx": "apt-get install nginx-light",
    "wrk": "apt-get install wrk",
    "node": "apt-get install nodejs",
    "Portkey": "npm install --prefix .venv-bench/portkey @portkey-ai/gateway@1.15.2",
    "LiteLLM": "make .venv-bench/gateway/.done",
    "vllm-router": "make .venv-bench/gateway/.done",
    "py-spy": "make .venv-bench/gateway/.done",
}


class NotInstalled(Exception):
    """A tool or a peer is not installed; the message says how to install it."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is not installed: {HOW_TO_INSTALL[name]}")


class CannotMeasure(Exception):
    """Something that the measurement needs does not work; the message says what."""


@dataclass(frozen=True, slots=True)
class Cores:
    """One core for the measured server, and one for everything else: mock engine, load and Valkey."""

    measured: int
    load: int

    @property
    def both(self) -> str:
        return f"{self.measured},{self.load}"


def take_cores() -> Cores:
    """Pins this process and its future children to the load's core. Raises CannotMeasure if there is only one core."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise CannotMeasure("two cores are needed: one for the gateway and one for the load")
    cores = Cores(allowed[0], allowed[1])
    os.sched_setaffinity(0, {cores.load})
    return cores


def program(name: str) -> str:
    """Returns the path of an installed tool. Raises NotInstalled."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        raise NotInstalled(name)
    return found


def peer_program(peer: str, name: str) -> str:
    """Returns the path of a program in the peers' environment. Raises NotInstalled."""
    if not (PEERS / name).exists():
        raise NotInstalled(peer)
    return str(PEERS / name)


def free_ports(count: int) -> list[int]:
    """Returns unused ports of 127.0.0.1."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def describe_machine() -> str:
    """Returns the commit and the processor in one line."""
    commit = _output_of("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD")
    changed = _output_of("git", "-C", str(ROOT), "status", "--porcelain", "services", "libs", "proto")
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    state = " with uncommitted changes" if changed else ""
    return f"commit {commit or 'unknown'}{state}; {os.cpu_count()} cores, {model.partition(':')[2].strip()}"


def _output_of(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
