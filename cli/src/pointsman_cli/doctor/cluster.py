"""Checks a running deployment over the network, as a client reaches it, without changing it."""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.http_client import open_async_client

from pointsman_cli.doctor.machine import Finding, fail, ok, warn
from pointsman_cli.doctor.running import configuration_finding
from pointsman_cli.top.metrics import Scrape, parse_metrics
from pointsman_cli.up.readiness import is_serving

ANSWER_SECONDS = 5.0
ASK_SECONDS = 120.0
WEEKS_LEFT = 3
"""The check of a TLS certificate fails if the certificate expires in less than this number of weeks, since it should
have been renewed earlier.
"""
_A_WEEK = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """The HTTP and gRPC addresses of a deployment that `doctor` checks, and the API key for it."""

    url: str
    """The base URL of the gateway's HTTP API, such as "https://pointsman.example"."""
    grpc: str = ""
    """The address HOST:PORT of the gateway's gRPC API; if it is empty, gRPC is not checked."""
    key: str = ""
    """The API key for requests to the cluster's gateway; if it is empty, requests are sent without a key."""
    asks: bool = False
    """Whether to send one request that an engine answers, which costs money."""

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"} if self.key else {}


async def check_cluster(cluster: Cluster) -> AsyncIterator[Finding]:
    """Yields the findings on a deployment one by one; stops early if the gateway's /healthz does not answer 200."""
    address = await _address(cluster.url)
    yield address
    async with open_async_client(base_url=cluster.url, timeout=ANSWER_SECONDS, trust_env=False) as client:
        alive = await _says(client, "gateway lives", "/healthz")
        yield alive
        if alive.level.value == "fail":
            return
        yield await _certificate(cluster.url)
        yield await _says(client, "gateway is ready", "/readyz")
        yield await _keys(client, cluster)
        yield await configuration_finding(client, cluster.headers)
        async for finding in _metrics(client):
            yield finding
        yield await _decision(client, cluster)
        if cluster.asks:
            yield await _answer(client, cluster)
    if cluster.grpc:
        yield await _grpc(cluster.grpc)


async def _address(url: str) -> Finding:
    host = urlsplit(url).hostname or ""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        return fail("address", f"{host or url} has none: {error.strerror or error}")
    return ok("address", f"{host} is {', '.join(sorted({str(each[4][0]) for each in found}))}")


async def _certificate(url: str) -> Finding:
    parts = urlsplit(url)
    if parts.scheme != "https":
        return warn("certificate", "none: requests, keys among them, travel in the clear")
    try:
        _, writer = await asyncio.open_connection(parts.hostname, parts.port or 443, ssl=ssl.create_default_context())
        ends = ssl.cert_time_to_seconds(writer.get_extra_info("peercert")["notAfter"])
        writer.close()
    except (OSError, ssl.SSLError) as error:
        return fail("certificate", str(error))
    weeks = (ends - time.time()) / _A_WEEK
    summary = f"ends in {weeks:.0f} weeks"
    return ok("certificate", summary) if weeks >= WEEKS_LEFT else fail("certificate", f"{summary}; renew it")


async def _says(client: httpx.AsyncClient, what: str, path: str) -> Finding:
    try:
        answer = await client.get(path)
    except httpx.HTTPError as error:
        return fail(what, f"{client.base_url} cannot be reached: {error or type(error).__name__}")
    text = answer.text.strip()[:200]
    return ok(what, text) if answer.status_code == 200 else fail(what, f"{path} answers {answer.status_code}: {text}")


async def _keys(client: httpx.AsyncClient, cluster: Cluster) -> Finding:
    try:
        bare = (await client.get("/v1/models")).status_code
        status = (await client.get("/v1/models", headers=cluster.headers)).status_code if cluster.key else bare
    except httpx.HTTPError as error:
        return fail("keys", f"unknown: /v1/models: {error or type(error).__name__}")
    if bare == 200:
        return warn("keys", "off: whoever reaches the gateway may use all of it (POINTSMAN_GATEWAY_AUTH=on)")
    if not cluster.key:
        return warn("keys", "on; name a key (--key-env) for the checks that need one")
    return ok("keys", "on, and this one is known") if status == 200 else fail("keys", f"this one is answered {status}")


async def _metrics(client: httpx.AsyncClient) -> AsyncIterator[Finding]:
    try:
        answer = (await client.get("/metrics", headers={"accept": "text/plain"})).raise_for_status()
        scrape = parse_metrics(answer.text, 0.0, ("pointsman_",))
    except (httpx.HTTPError, ValueError) as error:
        yield warn("metrics", f"cannot be read from here: {error or type(error).__name__}")
        return
    yield _engines(scrape)
    if scrape.value("pointsman_redis_up") == 0:
        yield fail("redis", "does not answer in time: keys go by copies, limits by leases, feedback waits on disk")
    elif "pointsman_redis_up" in scrape.samples:
        yield ok("redis", "answers")


def _engines(scrape: Scrape) -> Finding:
    ready = {
        dict(labels)["engine"]: value for labels, value in scrape.samples.get("pointsman_engine_ready", {}).items()
    }
    up = [name for name, value in ready.items() if value]
    down = sorted(ready.keys() - set(up))
    if not up:
        return fail("engines", f"none is ready of {len(ready)}: {', '.join(down) or 'none is configured'}")
    summary = f"{len(up)} of {len(ready)} are ready"
    return warn("engines", f"{summary}; not {', '.join(down)}") if down else ok("engines", summary)


async def _decision(client: httpx.AsyncClient, cluster: Cluster) -> Finding:
    response = await _post(client, "/v1/route", cluster, ANSWER_SECONDS)
    if isinstance(response, str):
        return fail("decision", response)
    return ok("decision", f"'{response['path']}' for task '{response['task']}' ({response['reason']})")


async def _answer(client: httpx.AsyncClient, cluster: Cluster) -> Finding:
    begun = time.perf_counter()
    response = await _post(client, "/v1/chat/completions", cluster, ASK_SECONDS)
    if isinstance(response, str):
        return fail("answer", response)
    seconds = time.perf_counter() - begun
    return ok(
        "answer", f"{response['usage']['completion_tokens']} tokens in {seconds:.2f} s from '{response['model']}'"
    )


async def _post(client: httpx.AsyncClient, path: str, cluster: Cluster, seconds: float) -> dict[str, Any] | str:
    """Posts a short chat request; returns the gateway's JSON object, or a text that describes the problem.

    `seconds` is the timeout.
    """
    body = {"model": "auto", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
    try:
        answer = await client.post(path, json=body, headers=cluster.headers, timeout=seconds)
        response: dict[str, Any] = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        return f"{path}: {error or type(error).__name__}"
    if answer.status_code == 200:
        return response
    return f"{path} answers {answer.status_code}: {response.get('error', {}).get('message', '')}"


async def _grpc(address: str) -> Finding:
    async with open_channel(address) as channel:
        serving = await is_serving(channel)
    return ok("grpc", f"serves at {address}") if serving else fail("grpc", f"does not serve at {address}")
