"""`pointsman doctor --cluster` checks a real gateway from outside."""

from pathlib import Path
from typing import NoReturn

from aiohttp import web
from pointsman_cli.doctor.cluster import Cluster, check_cluster
from pointsman_cli.doctor.machine import Level

from tests.gateway.doubles.gateway import Gateway, Neighbours
from tests.gateway.doubles.http_server import serving
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import until


async def judged(cluster: Cluster) -> dict[str, tuple[Level, str]]:
    return {finding.what: (finding.level, finding.detail) async for finding in check_cluster(cluster)}


async def test_a_healthy_gateway_passes_every_check(gateway: Gateway) -> None:
    found = await judged(Cluster(gateway.url, gateway.grpc_address, asks=True))
    assert {what for what, (level, _) in found.items() if level is Level.FAIL} == set()
    assert found["engines"] == (Level.OK, "1 of 1 are ready")
    assert "for task 'chat'" in found["decision"][1]
    assert "2 tokens in" in found["answer"][1]
    assert found["grpc"][0] is Level.OK
    assert found["keys"][0] is found["certificate"][0] is Level.WARN  # defaults for a laptop


async def test_without_an_engine_it_is_not_ready_and_the_engine_is_named(neighbours: Neighbours) -> None:
    async with neighbours.gateway() as gateway:
        found = await judged(Cluster(gateway.url))
    assert found["gateway is ready"] == (Level.FAIL, "/readyz answers 503: no engine is ready")
    assert found["engines"] == (Level.FAIL, "none is ready of 1: local")


async def test_with_authentication_a_key_is_required(neighbours: Neighbours, valkey: Valkey, tmp_path: Path) -> None:
    neighbours.settings |= {"redis_url": valkey.url, "wal_dir": tmp_path, "auth": "on"}
    await neighbours.ready()
    async with neighbours.gateway() as gateway:
        without = await judged(Cluster(gateway.url))
        wrong = await judged(Cluster(gateway.url, key="psm_nobodys"))
    assert without["keys"][0] is Level.WARN
    assert wrong["keys"] == (Level.FAIL, "this one is answered 401")
    assert "401" in wrong["decision"][1]


async def test_an_unavailable_redis_is_reported(neighbours: Neighbours, valkey: Valkey, tmp_path: Path) -> None:
    neighbours.settings |= {"redis_url": valkey.url, "wal_dir": tmp_path}
    await neighbours.ready()
    async with neighbours.gateway() as gateway:
        valkey.kill()
        await until(lambda: gateway.metric("pointsman_redis_up") == 0)
        assert (await judged(Cluster(gateway.url)))["redis"][0] is Level.FAIL


async def test_an_unreachable_gateway_ends_the_checks(unused_tcp_port: int) -> None:
    found = await judged(Cluster(f"http://127.0.0.1:{unused_tcp_port}"))
    assert [what for what, (level, _) in found.items() if level is Level.FAIL] == ["gateway lives"]
    nowhere = await judged(Cluster("http://nowhere.invalid"))
    assert nowhere["address"][0] is Level.FAIL


async def test_a_connection_that_breaks_is_a_finding(unused_tcp_port: int) -> None:
    async def live(request: web.Request) -> web.Response:
        return web.Response(text="alive")

    async def break_off(request: web.Request) -> NoReturn:
        assert request.transport
        request.transport.abort()
        raise ConnectionResetError

    app = web.Application()
    app.router.add_get("/healthz", live)
    app.router.add_route("*", "/{path:.*}", break_off)
    async with serving(app) as url:
        found = await judged(Cluster(url, f"127.0.0.1:{unused_tcp_port}", key="psm_any", asks=True))
    failed = {what for what, (level, _) in found.items() if level is Level.FAIL}
    assert failed == {"gateway is ready", "keys", "configuration serves", "decision", "answer", "grpc"}
    assert found["keys"][1].startswith("unknown: /v1/models: ")
