"""What it is measured on: cores, ports, versions, and what is missing."""

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
    """A tool or a peer is not on this machine; the text says which, and what installs it."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is not installed: {HOW_TO_INSTALL[name]}")


class CannotMeasure(Exception):
    """Something that the measurement needs does not work; the text says what."""


@dataclass(frozen=True, slots=True)
class Cores:
    """The one that is measured, and the one of all the rest: mock, load and Valkey."""

    measured: int
    load: int


def take_cores() -> Cores:
    """Moves this process, and so what it starts, to the load's core. Raises CannotMeasure where there is one core."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise CannotMeasure("one core is not enough: the gateway needs one for itself, the load another")
    cores = Cores(allowed[0], allowed[1])
    os.sched_setaffinity(0, {cores.load})
    return cores


def program(name: str) -> str:
    """The path of a tool of the system. Raises NotInstalled."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        raise NotInstalled(name)
    return found


def peer_program(peer: str, name: str) -> str:
    """The path of a program in the peers' environment. Raises NotInstalled."""
    if not (PEERS / name).exists():
        raise NotInstalled(peer)
    return str(PEERS / name)


def free_ports(count: int) -> list[int]:
    """So many ports of 127.0.0.1 that nobody listens on."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def describe_machine() -> str:
    """The commit and the processor, in a line."""
    commit = _output_of("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD")
    changed = _output_of("git", "-C", str(ROOT), "status", "--porcelain", "services", "libs", "proto")
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    state = " with changes that are not committed" if changed else ""
    return f"commit {commit or 'unknown'}{state}; {os.cpu_count()} cores, {model.partition(':')[2].strip()}"


def _output_of(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
