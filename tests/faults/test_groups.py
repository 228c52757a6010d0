"""Engines behind a DNS name are added, removed, killed and suspended under load; each is a real process with its own
loopback address."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pointsman_embedding.prepare import prepare

from tests.gateway.doubles.config_folder import IN_CHAT, ConfigFolder
from tests.gateway.doubles.deployment import MODEL, RESILIENCE
from tests.gateway.doubles.dns_server import DnsServer, running_dns
from tests.gateway.doubles.load import Load, Outcome, under_load
from tests.gateway.doubles.process_engine import ProcessEngine
from tests.gateway.doubles.process_gateway import ProcessGateway
from tests.gateway.doubles.waiting import found
from tests.ports import free_port

NAME = "engines.pointsman.svc"
CLIENTS = 16


@dataclass
class Fleet:
    folder: Path
    dns: DnsServer
    gateway: ProcessGateway
    stack: AsyncExitStack
    port: int
    engines: dict[str, ProcessEngine] = field(default_factory=dict)

    async def start(self, *names: str) -> None:
        """Starts engines that answer with their names, and then adds them to DNS."""
        for name in names:
            host = f"127.0.1.{ord(name)}"
            engine = ProcessEngine(self.folder, name, pieces=10, gap=0.02, port=self.port, host=host)
            self.stack.push_async_callback(engine.kill)
            await engine.start()
            self.engines[name] = engine
        self._tell()

    def forget(self, name: str) -> ProcessEngine:
        """Removes an engine from DNS while it keeps running."""
        engine = self.engines.pop(name)
        self._tell()
        return engine

    async def until_known(self) -> float:
        """Waits until the gateway knows as many members as there are engines, and returns the seconds that this
        took.
        """
        begun = time.monotonic()

        async def known() -> bool:
            return await self.gateway.metric("pointsman_engine_group_members") == len(self.engines)

        await found(known, within=30)
        return time.monotonic() - begun

    def _tell(self) -> None:
        self.dns.names[NAME] = [engine.host for engine in self.engines.values()]


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    prepare(MODEL)
    port, config = free_port(), ConfigFolder(tmp_path / "config")
    config.models["resilience"] = RESILIENCE
    config.models["engines"] = {"fleet": {"model": "tiny", "url": f"dns+http://{NAME}:{port}"}}
    config.paths = {name: path for name, path in config.paths.items() if "adapter" not in path}
    config.tasks["triage"]["policy"] = {"fixed": "triage_few_shot"}
    async with running_dns() as dns, AsyncExitStack() as stack:
        gateway = ProcessGateway(tmp_path, {"config": config.write(), "embedding_model": MODEL, "dns": dns.address})
        fleet = Fleet(tmp_path, dns, gateway, stack, port)
        await fleet.start("a", "b")
        stack.push_async_callback(gateway.kill)
        await gateway.open_clients()
        await fleet.until_known()
        yield fleet


def by(name: str, outcome: Outcome) -> bool:
    return outcome.text.startswith(name)


async def all_have_begun_anew(load: Load) -> None:
    """Waits for so many more requests that every answer that had begun before has ended."""
    await load.more(20 * CLIENTS)


async def test_engines_are_added_and_removed_under_load_without_failures(fleet: Fleet) -> None:
    async with under_load(fleet.gateway.url, IN_CHAT, clients=CLIENTS) as load:
        await load.more(50)
        await fleet.start("c", "d")
        came = await fleet.until_known()
        await load.more(1, lambda outcome: by("c", outcome))
        await load.more(1, lambda outcome: by("d", outcome))
        for name in ("a", "c"):
            leaving = fleet.forget(name)
            went = await fleet.until_known()
            since = time.monotonic()
            await all_have_begun_anew(load)
            assert [outcome for outcome in load.since(since) if by(name, outcome)] == []
            await leaving.kill()
    assert [outcome for outcome in load.outcomes if not outcome.ok] == []
    print(f"came after {came:.1f} s, went after {went:.1f} s; {len(load.outcomes)} requests, none failed")


async def test_a_killed_member_loses_only_its_requests_in_flight(fleet: Fleet) -> None:
    await fleet.start("c")
    await fleet.until_known()
    async with under_load(fleet.gateway.url, IN_CHAT, clients=CLIENTS) as load:
        await load.more(50)
        await fleet.engines["a"].kill()  # DNS still lists it
        await load.more(300)
        fleet.forget("a")
        await fleet.until_known()
        await load.more(50)
    lost = [outcome for outcome in load.outcomes if not outcome.ok]
    assert [outcome for outcome in lost if not (outcome.begins and outcome.code == "engine_unavailable")] == []
    assert len(lost) <= CLIENTS


async def test_a_hanging_member_is_skipped_until_it_recovers(fleet: Fleet) -> None:
    async with under_load(fleet.gateway.url, IN_CHAT, clients=CLIENTS) as load:
        await load.more(50)
        fleet.engines["a"].hang()

        async def left_alone() -> bool:
            return await fleet.gateway.metric("pointsman_engine_breaker_open") == 1

        await found(left_alone, within=30)
        await load.more(200, lambda outcome: by("b", outcome))
        fleet.engines["a"].go_on()
        await load.more(1, lambda outcome: by("a", outcome))
    lost = [outcome for outcome in load.outcomes if not outcome.ok]
    assert [outcome for outcome in lost if not (outcome.begins and outcome.code == "stream_idle_timeout")] == []
    assert len(lost) <= CLIENTS


async def test_members_keep_serving_while_dns_is_down(fleet: Fleet) -> None:
    async with under_load(fleet.gateway.url, IN_CHAT, clients=CLIENTS) as load:
        await load.more(50)
        fleet.dns.silent = True
        asked = fleet.dns.asked

        async def failed() -> bool:
            return await fleet.gateway.metric("pointsman_engine_group_lookups_total", outcome="failed") >= 2

        await found(failed, within=30)
        assert fleet.dns.asked > asked
        await load.more(100)
        fleet.dns.silent = False
        await fleet.start("c")
        await load.more(1, lambda outcome: by("c", outcome))
    assert [outcome for outcome in load.outcomes if not outcome.ok] == []
