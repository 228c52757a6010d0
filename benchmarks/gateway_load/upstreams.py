"""Starts the mock engines: nginx for immediate answers, and a Python program for paced streams and failures."""

import json
import subprocess
import sys
from dataclasses import dataclass

from benchmarks.gateway_load import answers
from benchmarks.gateway_load.http_client import answers_at
from benchmarks.gateway_load.machine import ROOT, Cores, NotInstalled, free_ports, program
from benchmarks.gateway_load.processes import Processes
from benchmarks.gateway_load.upstream import Pace

NGINX_CONFIG = """
daemon off;
worker_processes {workers};
pid nginx-{name}.pid;
error_log stderr error;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 3600s;
  client_body_temp_path temp-{name};
  proxy_temp_path temp-{name};
  fastcgi_temp_path temp-{name};
  uwsgi_temp_path temp-{name};
  scgi_temp_path temp-{name};
  {rest}
}}
"""
SERVER_CONFIG = (
    "server {{ listen 127.0.0.1:{port} backlog=2048; default_type {kind}; location / {{ return 200 '{body}'; }} }}"
)


@dataclass(frozen=True, slots=True)
class Upstreams:
    """Ports of the mock engines on 127.0.0.1."""

    plain: int
    """Port of complete answers, for gateways that forward a plain request unchanged."""
    stream: int
    """Port of the same answer as a stream in one piece, for our gateway, which always requests streams."""
    paced: int
    failing: int
    cutting: int
    made_by: str


async def start_upstreams(processes: Processes, cores: Cores, pace: Pace) -> Upstreams:
    """Starts the engines on the load's core. Without nginx, the several times slower Python program answers
    everything.
    """
    slow = dict(zip(("at_once", "paced", "failing", "cutting"), free_ports(4), strict=True))
    command = [sys.executable, "-m", "benchmarks.gateway_load.upstream", json.dumps(slow)]
    paced = ["--chunks", str(pace.chunks), "--gap", str(pace.min_gap), str(pace.max_gap)]
    mock = processes.start("mock", cores.load, [*command, *paced], {"PYTHONPATH": str(ROOT)})
    await mock.until_ready(lambda: answers_at(slow["cutting"]), timeout_s=20)
    rest = {"paced": slow["paced"], "failing": slow["failing"], "cutting": slow["cutting"]}
    try:
        plain, stream = await _fast(processes, cores)
    except NotInstalled as missing:
        print(f"{missing}; the mock engine in Python is used instead, and limits the measured throughput")
        return Upstreams(plain=slow["at_once"], stream=slow["at_once"], **rest, made_by="Python")
    return Upstreams(plain=plain, stream=stream, **rest, made_by="nginx")


async def _fast(processes: Processes, cores: Cores) -> tuple[int, int]:
    plain, stream = free_ports(2)
    servers = [
        SERVER_CONFIG.format(port=plain, kind="application/json", body=answers.plain().decode()),
        SERVER_CONFIG.format(port=stream, kind="text/event-stream", body=answers.stream().decode()),
    ]
    running = processes.start("engine", cores.load, nginx_command(processes, "engine", "\n".join(servers)))
    await running.until_ready(lambda: answers_at(stream), timeout_s=20)
    return plain, stream


def nginx_command(processes: Processes, name: str, rest: str, workers: int = 1) -> list[str]:
    """Writes nginx's configuration, and returns its command line. Raises NotInstalled."""
    file = processes.folder / f"{name}.conf"
    file.write_text(NGINX_CONFIG.format(name=name, rest=rest, workers=workers))
    return [program("nginx"), "-p", str(processes.folder), "-c", str(file)]


def nginx_version() -> str:
    """Returns nginx's version. Raises NotInstalled."""
    output = subprocess.run([program("nginx"), "-v"], capture_output=True, text=True, timeout=10)
    return output.stderr.rpartition("/")[2].strip()
