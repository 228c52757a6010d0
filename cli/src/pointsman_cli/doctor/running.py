"""Checks the deployment that runs on this machine: ports, health of the services, configuration and engine."""

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import Any

import grpc
import httpx
from pointsman.v1 import lora_server_pb2, retriever_pb2
from pointsman_servicekit.http_client import open_async_client

from pointsman_cli.data_dir import Run, is_alive
from pointsman_cli.doctor.machine import Finding, fail, ok, warn
from pointsman_cli.grpc_clients import lora_server_stub, open_anonymous_channel, open_channel, retriever_stub
from pointsman_cli.options import DEFAULT_GRPC, DEFAULT_HTTP, KEY_VARIABLE, bearer
from pointsman_cli.up.plan import split_address
from pointsman_cli.up.prometheus import PROMETHEUS, is_ready
from pointsman_cli.up.readiness import is_serving

_ANSWER_SECONDS = 5.0
_COLLECTIONS = retriever_pb2.ListCollectionsRequest()
_ADAPTERS = lora_server_pb2.ListAdaptersRequest()


def check_ports(http: str, grpc_address: str, run: Run | None) -> list[Finding]:
    """Checks that the gateway's HTTP and gRPC ports are free, or are used by the running `pointsman up`.

    The addresses are "HOST:PORT". An empty address stands for that of the running `pointsman up`, or for the default
    address if `run` is None. Returns one finding for each port. Raises UsageError if an address is malformed.
    """
    http = http or (run.http.removeprefix("http://") if run else DEFAULT_HTTP)
    grpc_address = grpc_address or (run.grpc if run else DEFAULT_GRPC)
    return [check_port("http port", http, "--http", run), check_port("grpc port", grpc_address, "--grpc", run)]


def check_port(what: str, address: str, option: str, run: Run | None) -> Finding:
    """Checks that the port of `address` is free, or is used by the gateway of the running `pointsman up`.

    `what` names the finding, and `option` ("--http") is the option that sets the address. Raises UsageError if
    `address` is not HOST:PORT.
    """
    if run is not None and address in (run.http.removeprefix("http://"), run.grpc):
        return ok(what, f"{address} is ours (pid {run.pid})")
    host, port = split_address(address, option)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind((host, port))
            holder.listen(1)
        except OSError as error:
            return fail(what, f"{address}: {error.strerror}; choose another with `pointsman up {option}`")
    return ok(what, f"{address} is free")


async def check_running(run: Run | None, key: str = "") -> list[Finding]:
    """Checks the services of the running `pointsman up`: their health and tokens, the engine, the configuration and
    Prometheus.

    If `run` is None (nothing runs), the only finding is a warning. `key` is an API key for the gateway; if it is empty,
    requests are sent without a key.
    """
    if run is None:
        return [warn("running", "nothing; start it with `pointsman up EXAMPLE_FOLDER`")]
    addresses = {"gateway": run.grpc, "retriever": run.retriever, "lora-server": run.lora_server}
    started = {name: address for name, address in addresses.items() if address}
    findings = list(await asyncio.gather(*(_service(name, address, run) for name, address in started.items())))
    findings += await check_tokens(run)
    if run.lora_server:
        findings += await _engine(run.lora_server)
    return [*findings, await check_configuration(run.http, key), *await _prometheus(run)]


async def check_tokens(run: Run) -> list[Finding]:
    """Checks that retriever and lora-server, if `run` has them, reject calls without an access token.

    A service that accepts such a call, or does not answer, gets a warning.
    """
    findings = []
    if run.retriever:
        findings.append(
            await _tokens(
                "retriever", run.retriever, lambda channel: retriever_stub(channel).ListCollections, _COLLECTIONS
            )
        )
    if run.lora_server:
        findings.append(
            await _tokens("lora-server", run.lora_server, lambda channel: lora_server_stub(channel).List, _ADAPTERS)
        )
    return findings


async def _tokens(name: str, address: str, method: Callable[[grpc.aio.Channel], Any], request: Any) -> Finding:
    """Checks that the service rejects a call without a token; warns if it does not, or cannot be reached."""
    what = f"{name} tokens"
    try:
        async with open_anonymous_channel(address) as channel:
            await method(channel)(request, timeout=_ANSWER_SECONDS)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            return ok(what, "calls without a known token are refused")
        return warn(what, f"unknown: {name} does not answer ({error.code().name})")
    return warn(what, f"none: whoever can connect to {address} may do everything")


async def _service(name: str, address: str, run: Run) -> Finding:
    async with open_anonymous_channel(address) as channel:
        serving = await is_serving(channel)
    process = run.processes.get(name)
    log = f"; its log is {process.log}" if process else ""
    if process and not is_alive(process.pid):
        return fail(name, f"its process {process.pid} is dead{log}")
    if not serving:
        return fail(name, f"does not serve at {address}{log}")
    return ok(name, f"serves at {address}")


async def check_configuration(url: str, key: str = "") -> Finding:
    """Checks that the gateway at the base URL `url` uses the present content of its configuration files.

    `key` is an API key for the gateway; if it is empty, requests are sent without a key.
    """
    async with open_async_client(base_url=url, timeout=_ANSWER_SECONDS, trust_env=False) as client:
        return await configuration_finding(client, bearer(key))


async def configuration_finding(client: httpx.AsyncClient, headers: Mapping[str, str] | None = None) -> Finding:
    """Checks that the gateway at the client's base URL uses the present content of its configuration files.

    `headers` are the HTTP headers with the API key; if it is None or empty, requests are sent without a key.
    """
    try:
        answer = await client.get("/v1/configuration", headers=headers)
        if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            return _unauthorized(has_key=bool(headers))
        response = answer.raise_for_status().json()
    except (httpx.HTTPError, ValueError) as error:
        return fail("configuration serves", f"unknown: {error or type(error).__name__}")
    if response["problem"]:
        return fail("configuration serves", f"still the last good one, {response['revision']}: {response['problem']}")
    return ok("configuration serves", f"revision {response['revision']}")


def _unauthorized(*, has_key: bool) -> Finding:
    if has_key:
        return fail(
            "configuration serves", "unknown: the gateway rejects this API key; `pointsman keys list` shows all"
        )
    return warn(
        "configuration serves",
        f"unknown: keys are on; put an API key into {KEY_VARIABLE}, or name its variable with --key-env",
    )


async def _engine(address: str) -> list[Finding]:
    try:
        async with open_channel(address) as channel:
            watching = lora_server_stub(channel).Watch(lora_server_pb2.WatchRequest(), timeout=_ANSWER_SECONDS)
            async for state in watching:
                return [_judge(state), tool_calls_finding(state)]
    except grpc.RpcError:
        pass
    return [fail("engine runs", "unknown: the lora-server does not answer")]


async def _prometheus(run: Run) -> list[Finding]:
    """Checks that the Prometheus of `pointsman up` answers; returns an empty list if `run` has none."""
    process = run.processes.get(PROMETHEUS)
    if process is None:
        return []
    async with open_async_client(timeout=_ANSWER_SECONDS, trust_env=False) as client:
        if await is_ready(client, process.address):
            return [ok(PROMETHEUS, f"answers at http://{process.address}")]
    return [fail(PROMETHEUS, f"does not answer at {process.address}; its log is {process.log}")]


def _judge(state: lora_server_pb2.EngineState) -> Finding:
    if state.status == lora_server_pb2.ENGINE_STATUS_READY:
        return ok("engine runs", f"{state.base_model} at {state.url}, {len(state.resident)} adapters resident")
    if state.status == lora_server_pb2.ENGINE_STATUS_STARTING:
        return warn("engine runs", f"is starting: {state.detail}")
    return fail("engine runs", f"is down: {state.detail}")


def tool_calls_finding(state: lora_server_pb2.EngineState) -> Finding:
    if state.tool_call_parser:
        return ok("tool calls", f"vLLM reads them with its parser '{state.tool_call_parser}'")
    return warn(
        "tool calls",
        f"the engine refuses requests with tools: no parser is known for {state.base_model}, or it is off; set "
        "POINTSMAN_LORA_TOOL_CALL_PARSER to the one that vLLM's documentation names for the model",
    )
