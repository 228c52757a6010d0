"""Several gateway processes share ports: how requests are distributed, and death, shutdown, metrics, limits and
configuration."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from os import kill
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc
from pointsman_embedding.prepare import prepare
from pointsman_gateway.bootstrap.workers import GAUGES
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.keys.records import NO_LIMITS, Limits
from prometheus_client.parser import text_string_to_metric_families

from tests.gateway.doubles.config_folder import IN_CHAT, ConfigFolder
from tests.gateway.doubles.deployment import MODEL
from tests.gateway.doubles.process_engine import process_engine
from tests.gateway.doubles.process_gateway import ProcessGateway, process_gateway
from tests.gateway.doubles.tenancy import issue
from tests.gateway.doubles.valkey import Valkey, running_valkey
from tests.gateway.doubles.waiting import found, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

LAST_CHUNK = b"\r\n0\r\n\r\n"
PATH = "path:triage_few_shot"
BODY = {"model": PATH, "messages": [{"role": "user", "content": IN_CHAT}], "stream": True}


@dataclass
class Workers:
    """A gateway with two workers and a key."""

    gateway: ProcessGateway
    config: ConfigFolder
    valkey: Valkey
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"{self.gateway.url}/v1/chat/completions"

    async def issue_key(self, limits: Limits = NO_LIMITS) -> dict[str, str]:
        issued = await issue(self.valkey.url, limits)
        return {"authorization": f"Bearer {issued.credential.text}"}

    async def states(self) -> list[dict[str, Any]]:
        url = f"{self.gateway.url}/v1/configuration"
        async with aiohttp.ClientSession() as session, session.get(url, headers=self.headers) as answer:
            answer.raise_for_status()
            states: list[dict[str, Any]] = (await answer.json())["workers"]
            return states

    async def pids(self) -> list[int]:
        return [state["pid"] for state in await self.states()]

    async def serve(self, but_not: int = 0) -> bool:
        """Returns whether all workers serve requests, and none of them is the process `but_not`."""
        try:
            states = await self.states()
        except aiohttp.ClientError:  # this connection was to a worker that is gone or not ready
            return False
        return all("revision" in state and state["pid"] != but_not for state in states)

    async def counted(self) -> float:
        return await self.gateway.metric("pointsman_requests_total")

    async def ask(self, headers: dict[str, str] | None = None) -> tuple[int, bool]:
        """Sends a request on a new connection. Returns the status, and whether the answer was complete."""
        async with (
            aiohttp.ClientSession() as session,
            session.post(self.url, json=BODY, headers=headers or self.headers) as answer,
        ):
            return answer.status, b"[DONE]" in await answer.read()


@asynccontextmanager
async def started(folder: Path, classifiers: Path, pieces: int = 3, gap: float = 0.01) -> AsyncIterator[Workers]:
    """Starts workers with an engine whose answers have `pieces` chunks, one every `gap` seconds."""
    prepare(MODEL)
    config = ConfigFolder(folder / "config")
    async with (
        process_engine(folder, "a", pieces=pieces, gap=gap) as engine,
        running_valkey(folder / "valkey") as valkey,
    ):
        config.models["engines"] = {"local": {"model": "tiny", "url": engine.url}}
        config.paths = {name: path for name, path in config.paths.items() if "adapter" not in path}
        config.tasks["triage"]["policy"] = {"fixed": "triage_few_shot"}
        async with process_gateway(
            folder,
            config=config.write(),
            embedding_model=MODEL,
            classifier_cache=classifiers,
            redis_url=valkey.url,
            auth="on",
            wal_dir=folder / "wal",
            workers=2,
            reload_seconds=0.2,
            shutdown_delay=1.0,
        ) as gateway:
            workers = Workers(gateway, config, valkey)
            workers.headers = await workers.issue_key()
            await found(workers.serve, within=60)
            yield workers


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("classifiers")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def workers(tmp_path_factory: pytest.TempPathFactory, classifiers: Path) -> AsyncIterator[Workers]:
    async with started(tmp_path_factory.mktemp("workers"), classifiers) as workers:
        yield workers


@pytest_asyncio.fixture(loop_scope="module")
async def slow_workers(tmp_path: Path, classifiers: Path) -> AsyncIterator[Workers]:
    """Starts workers for one test, which may stop them; a stream takes three seconds."""
    async with started(tmp_path, classifiers, pieces=30, gap=0.1) as workers:
        yield workers


@dataclass
class Client:
    """Sends requests one after the other on one connection, and so to one worker. Reconnects after an error."""

    headers: dict[str, str]
    port: int = 0
    """The local port of the client's connection."""
    answered: int = 0
    failed_ports: list[int] = field(default_factory=list)
    """The local port of each request that failed."""
    stopped: bool = False

    async def run(self, address: str) -> None:
        body = json.dumps(BODY).encode()
        lines = ["POST /v1/chat/completions HTTP/1.1", f"host: {address}", "content-type: application/json"]
        lines += [f"content-length: {len(body)}", *(f"{name}: {value}" for name, value in self.headers.items())]
        request = "\r\n".join([*lines, "", ""]).encode() + body
        while not self.stopped:
            try:
                reader, writer = await asyncio.open_connection(*address.split(":"))
            except OSError:
                self.failed_ports.append(self.port)
                continue
            self.port = writer.get_extra_info("sockname")[1]
            try:
                while not self.stopped:
                    writer.write(request)
                    answer = await reader.readuntil(LAST_CHUNK)
                    assert answer.startswith(b"HTTP/1.1 200 ")
                    assert b"[DONE]" in answer
                    self.answered += 1
            except (OSError, asyncio.IncompleteReadError):
                self.failed_ports.append(self.port)
            finally:
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()


def connected_to(pid: int) -> set[int]:
    """Returns the remote ports of a process's TCP connections."""
    sockets = set[str]()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it has just been closed
            sockets.add(str(file.readlink()).removeprefix("socket:[").removesuffix("]"))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {int(row[2].rpartition(":")[2], 16) for row in rows if row[9] in sockets}


def is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@asynccontextmanager
async def clients(workers: Workers, count: int = 12) -> AsyncIterator[list[Client]]:
    """Starts clients, and waits until each has had an answer. Waits for their last requests at the end of the block."""
    everyone = [Client(workers.headers) for _ in range(count)]
    running = [asyncio.create_task(client.run(workers.gateway.url.removeprefix("http://"))) for client in everyone]
    try:
        await until(lambda: all(client.answered for client in everyone), within=30)
        yield everyone
    finally:
        for client in everyone:
            client.stopped = True
        await asyncio.gather(*running)


async def test_the_metrics_page_is_the_sum_over_all_workers(workers: Workers) -> None:
    pids = await workers.pids()
    async with clients(workers) as everyone:
        ports = [{client.port for client in everyone} & connected_to(pid) for pid in pids]
    async with open_channel(workers.gateway.grpc_address) as channel:
        request = pb.GenerateRequest(model=PATH, messages=[pb.Message(role="user", content=IN_CHAT)])
        await gateway_pb2_grpc.GatewayStub(channel).Generate(request, metadata=tuple(workers.headers.items()))

    assert all(ports), "the kernel has given all connections to one worker"
    total = sum(client.answered for client in everyone) + 1
    await found(lambda: _counts(workers, total))  # a client is answered before its request is counted
    for histogram in ("pointsman_request_duration_seconds", "pointsman_time_to_first_token_seconds"):
        assert await workers.gateway.metric(f"{histogram}_count") == total
        assert await workers.gateway.metric(f"{histogram}_bucket", le="+Inf") == total
    assert await workers.gateway.metric("pointsman_in_flight") == 0
    assert await workers.gateway.metric("pointsman_config_revision") == len(pids)
    assert await workers.gateway.metric("pointsman_worker_up") == len(pids)


async def test_all_workers_serve_the_same_metrics_page(workers: Workers) -> None:
    """Building the page costs each worker tens of milliseconds, and requesting it needs no key."""
    answers = await asyncio.gather(*(workers.gateway.look("/metrics") for _ in range(20)))
    assert {status for status, _ in answers} == {200}
    assert len({page for _, page in answers}) <= 5  # on a slow machine the page may expire meanwhile


async def _counts(workers: Workers, total: int) -> bool:
    return await workers.counted() == total


async def test_only_one_worker_fits_the_classifier(workers: Workers) -> None:
    assert workers.gateway.words.count("trained on") == 1


async def test_every_combined_gauge_exists(workers: Workers) -> None:
    _, page = await workers.gateway.look("/metrics")
    assert GAUGES.keys() <= {family.name for family in text_string_to_metric_families(page) if family.type == "gauge"}


async def test_a_rate_limit_holds_over_all_workers(workers: Workers) -> None:
    limit = 20
    headers = await workers.issue_key(Limits(requests_per_minute=limit))
    await found(_begins_a_minute, within=30)
    statuses = [status for status, _ in await asyncio.gather(*[workers.ask(headers) for _ in range(3 * limit)])]
    while (status := (await workers.ask(headers))[0]) == 200:  # until what the other worker has leased is used too
        statuses.append(status)
    assert statuses.count(200) == limit
    assert set(statuses) == {200, 429}


async def _begins_a_minute() -> bool:
    """Returns whether at least half of the current minute, the window of the limits, is left."""
    return time.time() % 60 < 30


async def test_if_a_worker_is_killed_only_its_own_connections_fail_and_it_is_replaced(workers: Workers) -> None:
    async with clients(workers) as everyone:
        victim, survivor = await workers.pids()
        its_ports, other_ports = connected_to(victim), connected_to(survivor)
        before = await workers.counted()
        kill(victim, signal.SIGKILL)
        await found(lambda: workers.serve(but_not=victim), within=60)
        answered = [client.answered for client in everyone]
        await until(lambda: all(c.answered > was for c, was in zip(everyone, answered, strict=True)), within=30)

    failed = {port for client in everyone for port in client.failed_ports}
    assert failed & its_ports
    assert not failed & other_ports  # a new connection may still reach the socket of the dying worker
    assert survivor in await workers.pids()
    assert await workers.counted() >= before  # what the dead worker had counted stays
    assert await workers.gateway.metric("pointsman_worker_restarts_total", worker="1") == 1
    assert "worker 1 ended with status -9" in workers.gateway.words


async def test_each_worker_takes_a_changed_configuration(workers: Workers) -> None:
    before = {state["revision"] for state in await workers.states()}
    workers.config.paths["triage_few_shot"]["max_tokens"] = 7
    workers.config.write()

    async def have_changed() -> bool:
        revisions = {state["revision"] for state in await workers.states()}
        return len(revisions) == 1 and revisions != before

    await found(have_changed, within=30)
    assert len(before) == 1
    assert await workers.gateway.metric("pointsman_config_revision") == 2


async def test_a_port_of_another_gateway_is_reported_as_in_use(workers: Workers, tmp_path: Path) -> None:
    taken = workers.gateway.url.removeprefix("http://")
    other = ProcessGateway(tmp_path, {"config": workers.config.folder, "workers": 2, "http_listen": taken})
    with pytest.raises(AssertionError, match=f"cannot listen on {taken}"):
        await other.start()
    assert await other.ended(within=30) == 1


async def test_sigterm_drains_all_workers(slow_workers: Workers) -> None:
    pids = await slow_workers.pids()
    asked = asyncio.gather(*[slow_workers.ask() for _ in range(20)])
    await found(lambda: _all_busy(slow_workers), within=30)
    slow_workers.gateway.signal(signal.SIGTERM)
    assert await found(lambda: _refuses(slow_workers), within=10)  # every worker reports that it is not ready
    assert await asked == [(200, True)] * 20
    assert await slow_workers.gateway.ended(within=30) == 0
    assert not any(map(is_running, pids))


async def _all_busy(workers: Workers) -> bool:
    states = await workers.states()
    return all(state["in_flight"] for state in states) and sum(state["in_flight"] for state in states) == 20


async def _refuses(workers: Workers) -> bool:
    return {(await workers.gateway.look("/readyz"))[0] for _ in range(8)} == {503}


async def test_a_worker_that_cannot_start_ends_the_gateway(tmp_path: Path) -> None:
    config = ConfigFolder(tmp_path / "config").write()
    gateway = ProcessGateway(tmp_path, {"config": config, "workers": 2, "embedding_model": "/nowhere"})
    with pytest.raises(AssertionError, match=r"worker [12] ended with status 1 before it was ready"):
        await gateway.start()
    assert await gateway.ended(within=30) == 1


async def test_workers_end_if_their_supervisor_is_killed(workers: Workers) -> None:  # so this is the last test
    pids = await workers.pids()
    workers.gateway.signal(signal.SIGKILL)
    await until(lambda: not any(map(is_running, pids)), within=30)
