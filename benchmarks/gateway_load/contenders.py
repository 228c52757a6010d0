"""Starts the servers that are compared: the mock engine alone, nginx, other gateways, and Pointsman."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import yaml

from benchmarks.gateway_load.http_client import HOST, Broken, Target, answers_at, post
from benchmarks.gateway_load.machine import (
    PEERS,
    PORTKEY,
    CannotMeasure,
    Cores,
    NotInstalled,
    free_ports,
    peer_program,
    program,
)
from benchmarks.gateway_load.our_gateway import Gateway
from benchmarks.gateway_load.processes import ManagedProcess, Processes
from benchmarks.gateway_load.upstreams import Upstreams, nginx_command, nginx_version

DIRECT, NGINX, LITELLM, PORTKEY_GATEWAY = "direct", "nginx", "LiteLLM", "Portkey"
VLLM_ROUTER, VLLM_ROUTER_DEFAULT = "vllm-router", "vllm-router, defaults"
OURS, OURS_AUTO, OURS_OPEN = "Pointsman, named path", "Pointsman, auto", "Pointsman, without keys"

IDLE_CHECK_SECONDS = 0.5
MAX_IDLE_WAIT_SECONDS = 20.0

PROXY_CONFIG = """
upstream {name} {{ server {host}:{port}; keepalive 256; keepalive_requests 1000000000; }}
server {{
  listen {host}:{listen} backlog=2048;
  location / {{
    proxy_pass http://{name};
    proxy_http_version 1.1;
    proxy_set_header connection "";
    proxy_buffering {buffering};
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Contender:
    """A server that answers chat completions, both at once and as paced streams."""

    name: str
    version: str
    plain: Target
    paced: Target
    programs: tuple[ManagedProcess, ...] = ()

    def cpu_seconds(self) -> float:
        return sum(each.cpu_seconds() for each in self.programs)

    def resident_mb(self) -> float:
        return sum(each.resident_mb() for each in self.programs) / max(len(self.programs), 1)

    async def wait_until_idle(self) -> None:
        """Waits until the processor time stays low, so that unfinished work does not slow down the next contender."""
        until = time.monotonic() + MAX_IDLE_WAIT_SECONDS
        before = self.cpu_seconds()
        while time.monotonic() < until:
            await asyncio.sleep(IDLE_CHECK_SECONDS)
            now = self.cpu_seconds()
            if now - before < 0.05 * IDLE_CHECK_SECONDS:
                return
            before = now


@dataclass(frozen=True, slots=True)
class Setup:
    """What a contender needs to start."""

    processes: Processes
    cores: Cores
    upstreams: Upstreams


StartContender = Callable[[Setup], Awaitable[Contender]]


async def direct(setup: Setup) -> Contender:
    up = setup.upstreams
    return Contender(DIRECT, f"the mock, {up.made_by}", Target(up.plain, "mock"), Target(up.paced, "mock"))


async def nginx(setup: Setup) -> Contender:
    up, (plain, paced) = setup.upstreams, free_ports(2)
    servers = [
        PROXY_CONFIG.format(host=HOST, name="plain", listen=plain, port=up.plain, buffering="on"),
        PROXY_CONFIG.format(host=HOST, name="paced", listen=paced, port=up.paced, buffering="off"),
    ]
    command = nginx_command(setup.processes, "nginx", "\n".join(servers))
    running = setup.processes.start("nginx", setup.cores.measured, command)
    await running.until_ready(lambda: answers_at(plain), timeout_s=20)
    return Contender(NGINX, nginx_version(), Target(plain, "mock"), Target(paced, "mock"), (running,))


def nginx_with_workers(setup: Setup, workers: int) -> Contender:
    """Starts nginx with `workers` processes, which may use both cores."""
    (port,) = free_ports(1)
    server = PROXY_CONFIG.format(host=HOST, name="plain", listen=port, port=setup.upstreams.plain, buffering="on")
    command = nginx_command(setup.processes, f"nginx-{workers}", server, workers)
    running = setup.processes.start(f"nginx-{workers}", setup.cores.both, command)
    return Contender(f"{NGINX}, {workers}", nginx_version(), Target(port, "mock"), Target(port, "mock"), (running,))


async def vllm_router(setup: Setup) -> Contender:
    """Starts vllm-router with its fastest policy, round robin; with one engine there is nothing to choose."""
    return await _vllm_router(setup, VLLM_ROUTER, ["--policy", "round_robin", "--log-level", "error"])


async def vllm_router_default(setup: Setup) -> Contender:
    """Starts vllm-router with its default policy (cache_aware), which stores prompts in a prefix tree."""
    return await _vllm_router(setup, VLLM_ROUTER_DEFAULT, [])


async def _vllm_router(setup: Setup, name: str, options: list[str]) -> Contender:
    """Starts one router per engine, because a router is configured with addresses and not with models."""
    script = peer_program(VLLM_ROUTER, "vllm-router")
    running, ports = [], free_ports(4)
    for number, engine in enumerate((setup.upstreams.plain, setup.upstreams.paced)):
        port, metrics = ports[2 * number : 2 * number + 2]
        command = [script, "--host", HOST, "--port", str(port), "--prometheus-port", str(metrics), *options]
        log = f"{name.replace(', ', '-').replace(' ', '-')}-{number}"
        one = setup.processes.start(log, setup.cores.measured, [*command, "--worker-urls", f"http://{HOST}:{engine}"])
        await one.until_ready(lambda port=port: answers_at(port), timeout_s=60)  # type: ignore[misc]  # its default is a port
        running.append(one)
    version = _version_of("vllm-router")
    return Contender(name, version, Target(ports[0], "mock"), Target(ports[2], "mock"), tuple(running))


async def litellm(setup: Setup) -> Contender:
    """Starts LiteLLM's proxy with one worker, the settings that LiteLLM recommends for production, a master key and no
    database.
    """
    script, key, (port,) = peer_program(LITELLM, "litellm"), "sk-benchmark", free_ports(1)
    engines = {"mock": setup.upstreams.plain, "paced": setup.upstreams.paced}
    config = {
        "model_list": [
            {
                "model_name": name,
                "litellm_params": {
                    "model": "openai/mock",
                    "api_base": f"http://{HOST}:{engine}/v1",
                    "api_key": "none",
                    "input_cost_per_token": 1e-6,
                    "output_cost_per_token": 4e-6,
                },
            }
            for name, engine in engines.items()
        ],
        "general_settings": {"master_key": key},
        "litellm_settings": {"set_verbose": False, "json_logs": True, "request_timeout": 600},
    }
    file = setup.processes.folder / "litellm.yaml"
    file.write_text(yaml.safe_dump(config))
    environment = {"LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    command = [script, "--config", str(file), "--host", HOST, "--port", str(port), "--num_workers", "1"]
    running = setup.processes.start("litellm", setup.cores.measured, [*command, "--telemetry", "False"], environment)
    await running.until_ready(lambda: answers_at(port, "/health/liveliness"), timeout_s=120)
    headers = {"authorization": f"Bearer {key}"}
    version = _version_of("litellm")
    return Contender(LITELLM, version, Target(port, "mock", headers), Target(port, "paced", headers), (running,))


async def portkey(setup: Setup) -> Contender:
    if not PORTKEY.exists():
        raise NotInstalled(PORTKEY_GATEWAY)
    (port,) = free_ports(1)
    command = [program("node"), str(PORTKEY), f"--port={port}", "--headless"]
    running = setup.processes.start("portkey", setup.cores.measured, command, {"NODE_ENV": "production"})
    await running.until_ready(lambda: answers_at(port, "/"), timeout_s=60)
    version = str(json.loads((PORTKEY.parents[1] / "package.json").read_text())["version"])
    plain, paced = (
        Target(port, "mock", {"x-portkey-provider": "openai", "x-portkey-custom-host": f"http://{HOST}:{engine}/v1"})
        for engine in (setup.upstreams.plain, setup.upstreams.paced)
    )
    return Contender(PORTKEY_GATEWAY, version, plain, paced, (running,))


def ours(gateway: Gateway) -> Contender:
    return Contender(OURS, "this tree", gateway.path("fast"), gateway.path("paced"), (gateway.process,))


def ours_open(gateway: Gateway) -> Contender:
    return replace(ours(gateway), name=OURS_OPEN)


def ours_with_workers(gateway: Gateway, workers: int) -> Contender:
    target = gateway.path("fast")
    return Contender(f"{OURS}, {workers}", "this tree", target, target, (gateway.process,))


def ours_auto(gateway: Gateway) -> Contender:
    return Contender(OURS_AUTO, "this tree", gateway.auto, gateway.auto, (gateway.process,))


PEER_STARTS: dict[str, StartContender] = {
    NGINX: nginx,
    VLLM_ROUTER: vllm_router,
    VLLM_ROUTER_DEFAULT: vllm_router_default,
    PORTKEY_GATEWAY: portkey,
    LITELLM: litellm,
}


async def start_peers(setup: Setup, names: list[str]) -> tuple[list[Contender], dict[str, str]]:
    """Starts the named peers. Returns those that answer correctly, and the reason for each of the others."""
    running, missing = [], {}
    for name in names:
        try:
            contender = await PEER_STARTS[name](setup)
            await check_answer(contender.plain)
            running.append(contender)
        except (NotInstalled, CannotMeasure) as error:
            missing[name] = str(error)
    return running, missing


async def check_answer(target: Target) -> None:
    """Raises CannotMeasure unless the target answers a chat completion."""
    body = {"model": target.model, "messages": [{"role": "user", "content": "Is my ticket valid?"}]}
    try:
        answer = await post(target, body)
        right = answer.status == 200 and json.loads(answer.body)["choices"][0]["message"]["content"]
    except (Broken, OSError, TimeoutError, ValueError, LookupError, TypeError) as error:
        raise CannotMeasure(f"port {target.port} does not answer: {error!r}") from error
    if not right:
        raise CannotMeasure(f"port {target.port} answers {answer.status}: {answer.body[:200]!r}")


def _version_of(package: str) -> str:
    """Returns the version that is installed in the peers' environment."""
    found = (PEERS.parent / "lib").glob(f"python*/site-packages/{package.replace('-', '_')}-*.dist-info")
    return next((one.stem.rpartition("-")[2] for one in found), "unknown")
