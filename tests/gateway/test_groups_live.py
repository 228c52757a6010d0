"""The gateway discovers lora-servers by DNS and follows changes, with real DNS and gRPC and one address per
lora-server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest

from tests.gateway.doubles.dns_server import DnsServer, running_dns
from tests.gateway.doubles.engine import ScriptedEngine, answer, running_engine
from tests.gateway.doubles.gateway import Gateway, Neighbours, open_http_client
from tests.gateway.doubles.lora_server import READY, ScriptedLoraServer, running_lora_server
from tests.gateway.doubles.waiting import found, until

NAME = "lora-server.pointsman.svc"
VERSION, OTHER = "triage@3f9a1c0b77de", "triage@0123456789ab"


@dataclass
class Fleet:
    """A gateway with a group of lora-servers, which a test adds and removes."""

    dns: DnsServer
    stack: AsyncExitStack
    port: int = 0
    sides: dict[str, tuple[ScriptedEngine, ScriptedLoraServer]] = field(default_factory=dict)

    async def start(self, host: str, *resident: str) -> None:
        """Starts an engine that answers with its address, and its lora-server; DNS does not list it yet."""
        engine = await self.stack.enter_async_context(running_engine())
        server = await self.stack.enter_async_context(running_lora_server(f"{host}:{self.port}"))
        self.port = int(server.address.rpartition(":")[2])
        engine.script = lambda body: answer(host)
        engine.adapters = set(resident)
        await server.say(READY, url=engine.url, base_model="big", resident=resident, aliases={})
        self.sides[host] = engine, server

    def name(self, *hosts: str) -> None:
        self.dns.names[NAME] = hosts


@pytest.fixture
async def fleet(neighbours: Neighbours) -> AsyncIterator[Fleet]:
    async with running_dns() as dns, AsyncExitStack() as stack:
        fleet = Fleet(dns, stack)
        await fleet.start("127.0.0.11", VERSION)
        await fleet.start("127.0.0.12", OTHER)
        fleet.name("127.0.0.11", "127.0.0.12")
        config, group = neighbours.config.models, f"dns:///{NAME}:{fleet.port}"
        config["models"]["big"] = config["models"]["tiny"]
        config["engines"]["fleet"] = {"model": "big", "lora_server": group}
        neighbours.settings["dns"] = dns.address
        yield fleet


@asynccontextmanager
async def opened(neighbours: Neighbours) -> AsyncIterator[tuple[Gateway, httpx.AsyncClient]]:
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        yield gateway, http


async def answered_by(http: httpx.AsyncClient, model: str) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
    answered = (await http.post("/v1/chat/completions", json=body)).json()
    return (
        str(answered["choices"][0]["message"]["content"]) if "choices" in answered else str(answered["error"]["code"])
    )


def places(gateway: Gateway) -> dict[str, str]:
    """Returns the ready members by name."""
    engines = gateway.components.engines.all()
    return {engine.name: engine.endpoint.rpartition(":")[0] for engine in engines if engine.group and engine.ready}


async def test_each_address_is_a_lora_server_and_adapters_are_requested_where_loaded(
    fleet: Fleet, neighbours: Neighbours
) -> None:
    async with opened(neighbours) as (gateway, http):
        await until(lambda: places(gateway) == {"fleet/0": "127.0.0.11", "fleet/1": "127.0.0.12"})
        assert await answered_by(http, VERSION) == "127.0.0.11"
        assert await answered_by(http, OTHER) == "127.0.0.12"
        assert gateway.metric("pointsman_engine_group_members", group="fleet") == 2
        assert gateway.metric("pointsman_engine_ready", engine="fleet/1") == 1


async def test_new_members_get_requests_and_removed_ones_finish_theirs(fleet: Fleet, neighbours: Neighbours) -> None:
    async with opened(neighbours) as (gateway, http):
        await until(lambda: len(places(gateway)) == 2)
        goes_on = asyncio.Event()
        engine, server = fleet.sides["127.0.0.12"]
        begun, *rest = answer("begun", " and", " ended")
        engine.script = lambda body: [begun, goes_on, *rest]
        asked = asyncio.create_task(answered_by(http, OTHER))
        await until(lambda: engine.running)
        await fleet.start("127.0.0.13", OTHER)
        fleet.name("127.0.0.11", "127.0.0.13")
        await until(lambda: places(gateway) == {"fleet/0": "127.0.0.11", "fleet/1": "127.0.0.13"})
        assert await answered_by(http, OTHER) == "127.0.0.13"
        await until(lambda: server.watchers == 0)
        goes_on.set()
        assert await asked == "begun and ended"


async def test_each_member_costs_its_hourly_price_while_it_exists(fleet: Fleet, neighbours: Neighbours) -> None:
    neighbours.config.models["engines"]["fleet"]["usd_per_hour"] = 3600.0
    neighbours.config.paths["handbook"]["model"] = "big"
    cost, fixed = "pointsman_engine_cost_usd_total", "pointsman_fixed_usd_per_hour"
    async with opened(neighbours) as (gateway, http):
        await until(lambda: len(places(gateway)) == 2)
        assert gateway.metric(fixed, path="handbook") == 7200
        assert gateway.metric(cost, engine="fleet/0") >= 0  # both are known by now
        assert await answered_by(http, VERSION) == "127.0.0.11"
        assert gateway.metric(cost, engine="fleet/0", path="other") > 0
        assert gateway.metric(cost, engine="fleet/1", path="other") == 0
        await until(lambda: gateway.metric(cost, engine="fleet/1", path="idle") > 0)
        assert gateway.metric(cost, engine="fleet") == 0  # the group itself is not an engine
        fleet.name("127.0.0.11")
        await until(lambda: len(places(gateway)) == 1, within=20)
        assert gateway.metric(fixed, path="handbook") == 3600
        gone = gateway.metric(cost, engine="fleet/1")
        before = gateway.metric(cost, engine="fleet/0")
        await until(lambda: gateway.metric(cost, engine="fleet/0") > before)
        assert gateway.metric(cost, engine="fleet/1") == gone


async def test_nothing_changes_while_dns_does_not_answer(fleet: Fleet, neighbours: Neighbours) -> None:
    async with opened(neighbours) as (gateway, http):
        await until(lambda: len(places(gateway)) == 2)
        fleet.dns.broken = True
        await until(lambda: gateway.metric("pointsman_engine_group_lookups_total", outcome="failed") >= 2, within=20)
        assert len(places(gateway)) == 2
        assert await answered_by(http, OTHER) == "127.0.0.12"
        fleet.dns.broken = False
        fleet.name("127.0.0.11")
        await until(lambda: places(gateway) == {"fleet/0": "127.0.0.11"}, within=20)


async def test_a_group_stays_through_an_edit_of_the_configuration_and_another_name_is_another_group(
    fleet: Fleet, neighbours: Neighbours
) -> None:
    neighbours.settings["reload_seconds"] = 0.05
    async with opened(neighbours) as (gateway, http):
        await until(lambda: len(places(gateway)) == 2)
        cells, first = gateway.components.engines.states, gateway.components.reloader.current.revision
        neighbours.config.models["engines"]["fleet"]["timeouts"] = {"stream_idle_seconds": 7}
        neighbours.config.write()
        await until(lambda: gateway.components.reloader.current.revision != first, within=20)
        assert gateway.components.engines.states == cells
        fleet.name("127.0.0.11")
        await until(lambda: places(gateway) == {"fleet/0": "127.0.0.11"}, within=20)  # in the new configuration, too
        fleet.dns.names["others.svc"] = ["127.0.0.12"]
        neighbours.config.models["engines"]["fleet"]["lora_server"] = f"dns:///others.svc:{fleet.port}"
        neighbours.config.write()
        await until(lambda: places(gateway) == {"fleet/0": "127.0.0.12"}, within=20)
        assert await answered_by(http, OTHER) == "127.0.0.12"
        await until(lambda: fleet.sides["127.0.0.11"][1].watchers == 0)


@pytest.mark.parametrize("edit", ["a word that is unknown\n", "# a comment\n"])
async def test_members_are_followed_after_a_reverted_edit(fleet: Fleet, neighbours: Neighbours, edit: str) -> None:
    async with opened(neighbours) as (gateway, http):
        reloader = gateway.components.reloader
        await until(lambda: len(places(gateway)) == 2)
        before, file = reloader.current.revision, neighbours.config.folder / "tasks.yaml"
        as_it_was = file.read_text()
        file.write_text(edit + as_it_was)
        await reloader.reload()
        file.write_text(as_it_was)
        await reloader.reload()
        assert (reloader.current.revision, reloader.status.problem) == (before, "")
        assert gateway.metric("pointsman_config_reloads_total", outcome="swapped") in (None, 0)
        await fleet.start("127.0.0.13", OTHER)
        fleet.name("127.0.0.11", "127.0.0.13")
        await until(lambda: places(gateway) == {"fleet/0": "127.0.0.11", "fleet/1": "127.0.0.13"}, within=20)
        assert await answered_by(http, OTHER) == "127.0.0.13"


async def test_a_gateway_becomes_ready_once_dns_knows_the_name(fleet: Fleet, neighbours: Neighbours) -> None:
    del fleet.dns.names[NAME]
    async with opened(neighbours) as (_, http):
        assert await answered_by(http, "big") == "engine_not_ready"
        fleet.name("127.0.0.11")

        async def served() -> bool:
            return await answered_by(http, "big") == "127.0.0.11"

        assert await found(served, within=20)
