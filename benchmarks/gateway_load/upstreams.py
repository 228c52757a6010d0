"""The engines that everything is measured in front of: a fast one, and one for what must be paced or must fail."""

import json
import subprocess
import sys
from dataclasses import dataclass

from benchmarks.gateway_load import answers
from benchmarks.gateway_load.http_client import answers_at
from benchmarks.gateway_load.machine import ROOT, Cores, NotInstalled, free_ports, program
from benchmarks.gateway_load.processes import Crew
from benchmarks.gateway_load.upstream import Pace

NGINX = """
daemon off;
worker_processes 1;
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
SAYS = "server {{ listen 127.0.0.1:{port} backlog=2048; default_type {kind}; location / {{ return 200 '{body}'; }} }}"


@dataclass(frozen=True, slots=True)
class Upstreams:
    """The ports of 127.0.0.1."""

    plain: int
    """Whole answers at once, for those who pass a plain request on as it is."""
    stream: int
    """The same as a stream written in one piece, for the gateway, which always asks for one."""
    paced: int
    failing: int
    cutting: int
    made_by: str


async def start_upstreams(crew: Crew, cores: Cores, pace: Pace) -> Upstreams:
    """On the load's core. Without nginx the mock in Python answers everything, which is several times slower."""
    slow = dict(zip(("at_once", "paced", "failing", "cutting"), free_ports(4), strict=True))
    command = [sys.executable, "-m", "benchmarks.gateway_load.upstream", json.dumps(slow)]
    paced = ["--chunks", str(pace.chunks), "--gap", str(pace.least_gap), str(pace.most_gap)]
    mock = crew.start("mock", cores.load, [*command, *paced], {"PYTHONPATH": str(ROOT)})
    await mock.until_ready(lambda: answers_at(slow["cutting"]), within=20)
    rest = {"paced": slow["paced"], "failing": slow["failing"], "cutting": slow["cutting"]}
    try:
        plain, stream = await _fast(crew, cores)
    except NotInstalled as missing:
        print(f"{missing}; the mock in Python answers instead, and bounds what is measured")
        return Upstreams(plain=slow["at_once"], stream=slow["at_once"], **rest, made_by="Python")
    return Upstreams(plain=plain, stream=stream, **rest, made_by="nginx")


async def _fast(crew: Crew, cores: Cores) -> tuple[int, int]:
    plain, stream = free_ports(2)
    servers = [
        SAYS.format(port=plain, kind="application/json", body=answers.plain().decode()),
        SAYS.format(port=stream, kind="text/event-stream", body=answers.stream().decode()),
    ]
    running = crew.start("engine", cores.load, nginx_command(crew, "engine", "\n".join(servers)))
    await running.until_ready(lambda: answers_at(stream), within=20)
    return plain, stream


def nginx_command(crew: Crew, name: str, rest: str) -> list[str]:
    """Writes the configuration. Raises NotInstalled."""
    file = crew.folder / f"{name}.conf"
    file.write_text(NGINX.format(name=name, rest=rest))
    return [program("nginx"), "-p", str(crew.folder), "-c", str(file)]


def nginx_version() -> str:
    """Raises NotInstalled."""
    said = subprocess.run([program("nginx"), "-v"], capture_output=True, text=True, timeout=10)
    return said.stderr.rpartition("/")[2].strip()
