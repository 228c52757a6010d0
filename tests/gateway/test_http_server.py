"""Properties of the HTTP server that do not depend on the route."""

import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
from pointsman_gateway.http.server import serve_http


async def test_chunks_are_not_delayed_by_nagles_algorithm() -> None:
    no_delay = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        connection = send.__self__.transport.get_extra_info("socket")
        no_delay.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    async with serve_http(app, "127.0.0.1:0") as address, httpx.AsyncClient(verify=False) as client:
        assert (await client.get(f"http://{address}/")).text == "ok"
    assert no_delay
    assert all(no_delay)


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6")
@pytest.mark.parametrize(("listen", "hosts"), [("[::1]:0", ["[::1]"]), ("[::]:0", ["[::1]", "127.0.0.1"])])
async def test_it_serves_ipv6_and_at_the_unspecified_address_ipv4_too(listen: str, hosts: list[str]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    async with serve_http(app, listen) as address, httpx.AsyncClient(verify=False) as client:
        for host in hosts:
            assert (await client.get(f"http://{host}:{address.rpartition(':')[2]}/")).text == "ok"
