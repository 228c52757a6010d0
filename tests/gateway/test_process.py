"""The gateway as a process: it starts, reports its addresses, drains, and exits with a clear message."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from pointsman_servicekit.errors import Unavailable
from pointsman_servicekit.grpc_client import open_channel

from tests.gateway.doubles.api_clients import GrpcStreamClient
from tests.gateway.doubles.config_folder import IN_CHAT, ConfigFolder
from tests.gateway.doubles.engine import ScriptedEngine, answer, beginning
from tests.gateway.doubles.gateway import Neighbours
from tests.gateway.doubles.waiting import until


async def start(*arguments: str, **settings: str) -> asyncio.subprocess.Process:
    environment = os.environ | {f"POINTSMAN_GATEWAY_{name.upper()}": value for name, value in settings.items()}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pointsman_gateway", *arguments,
        env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


@pytest.fixture
async def settings(neighbours: Neighbours, model_folder: Path) -> dict[str, str]:
    await neighbours.ready()
    neighbours.config.models["engines"]["local"]["lora_server"] = neighbours.lora_server.address
    return {
        "config": str(neighbours.config.write()),
        "embedding_model": str(model_folder),
        "retriever": neighbours.retriever.address,
        "http_listen": "127.0.0.1:0",
        "grpc_listen": "127.0.0.1:0",
        "shutdown_delay": "0.2",
    }


@pytest.fixture
async def process(settings: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await start(**settings)
    yield process
    if process.returncode is None:
        process.kill()
    await process.communicate()


async def addresses(process: asyncio.subprocess.Process) -> tuple[str, ...]:
    assert process.stderr is not None
    async with asyncio.timeout(30):
        async for line in process.stderr:
            found = re.search(r"HTTP on (127.0.0.1:[1-9]\d*), gRPC on (127.0.0.1:[1-9]\d*)", line.decode())
            if found:
                return found.groups()
    raise AssertionError("it ended before it said where it listens")


async def test_running_requests_end_and_new_ones_are_rejected_during_shutdown(
    process: asyncio.subprocess.Process, engine: ScriptedEngine
) -> None:
    http_address, grpc_address = await addresses(process)
    go_on = asyncio.Event()
    engine.says(*beginning("first"), go_on, *answer(" last"))
    async with httpx.AsyncClient(base_url=f"http://{http_address}", verify=False, timeout=10) as client:
        await _ready(client)
        body = {"model": "auto", "messages": [{"role": "user", "content": IN_CHAT}]}
        asked = asyncio.create_task(client.post("/v1/chat/completions", json=body))
        await until(lambda: engine.sent == 2)
        process.send_signal(signal.SIGTERM)
        await _rejecting(client, body)
        async with open_channel(grpc_address) as channel:
            with pytest.raises(Unavailable, match="the gateway is shutting down"):
                await GrpcStreamClient(channel).ask(IN_CHAT)
        go_on.set()
        assert (await asked).json()["choices"][0]["message"]["content"] == "first last"
    assert await asyncio.wait_for(process.wait(), 10) == 0


async def _ready(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(10):
        while (await client.get("/readyz")).status_code != 200:  # noqa: ASYNC110  # another process
            await asyncio.sleep(0.01)


async def _rejecting(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    """Sends requests until the gateway rejects new ones."""
    async with asyncio.timeout(10):
        while (await client.post("/v1/route", json=body)).status_code != 503:  # noqa: ASYNC110  # another process
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_stops_it_cleanly(process: asyncio.subprocess.Process, which: signal.Signals) -> None:
    await addresses(process)
    process.send_signal(which)
    _, errors = await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 0
    assert b"Traceback" not in errors


@pytest.mark.parametrize("setting", ["http_listen", "grpc_listen"])
async def test_a_port_in_use_is_reported_with_its_address(
    settings: dict[str, str], engine: ScriptedEngine, setting: str
) -> None:
    taken = engine.url.removeprefix("http://")
    code, out, errors = await ended(await start(**settings | {setting: taken}))
    assert (code, out) == (1, "")
    assert f"pointsman_gateway: cannot listen on {taken}: " in errors
    assert "Traceback" not in errors


async def test_a_missing_embedding_model_is_reported(settings: dict[str, str], tmp_path: Path) -> None:
    code, _, errors = await ended(await start(**settings | {"embedding_model": str(tmp_path / "none")}))
    assert code == 1
    assert re.search(rf"^pointsman_gateway: .*{tmp_path / 'none'}", errors, re.M)


async def test_a_configuration_can_be_checked_without_starting(config_folder: ConfigFolder) -> None:
    good = await ended(await start("--check", str(config_folder.write())))
    assert good == (0, f"{config_folder.folder}: 6 paths, 3 tasks, all well\n", "")
    config_folder.paths["handbook"]["model"] = "huge"
    code, out, errors = await ended(await start("--check", str(config_folder.write())))
    assert (code, out) == (1, "")
    assert errors == "pointsman_gateway: paths.yaml: path 'handbook' names model 'huge'; known: tiny\n"


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (
            {"url": "127.0.0.1:8000"},
            "engine 'cloud': '127.0.0.1:8000' is no URL of an engine; write http://HOST:PORT",
        ),
        (
            {"url": "http://127.0.0.1:1", "api_key_env": "POINTSMAN_TEST_NO_KEY"},
            "engine 'cloud' needs the environment variable POINTSMAN_TEST_NO_KEY, which is not set; "
            "set it to the key, or leave out api_key_env if no key is needed",
        ),
    ],
)
async def test_the_check_finds_what_the_start_would_find_and_names_the_file(
    tmp_path: Path, engine: dict[str, str], message: str
) -> None:
    models = {"m": {"context_window": 4096, "usd_per_million_tokens": "unknown"}}
    whole = {"models": models, "engines": {"cloud": {"model": "m", **engine}}, "paths": {"direct": {"model": "m"}}}
    (tmp_path / "pointsman.yaml").write_text(yaml.safe_dump(whole))
    assert await ended(await start("--check", str(tmp_path))) == (
        1,
        "",
        f"pointsman_gateway: pointsman.yaml: {message}\n",
    )


async def test_the_check_names_missing_folders_of_the_base_model_and_adapters(tmp_path: Path) -> None:
    (tmp_path / "pointsman.yaml").write_text(
        "base_model: ./base\n"
        "collections: {handbook: docs}\n"
        "adapters: {triage: {folder: triage, alias: prod}}\n"
        "models: {m: {context_window: 4096, usd_per_million_tokens: unknown}}\n"
        "engines: {e: {model: m, url: 'http://127.0.0.1:1'}}\n"
        "paths: {direct: {model: m}}\n"
    )
    (tmp_path / "triage").mkdir()
    code, out, _ = await ended(await start("--check", str(tmp_path)))
    assert code == 0
    base, collection, adapter, last = out.splitlines()
    assert base.startswith(f"pointsman.yaml: base_model: {tmp_path}/base is not a folder; create it, or correct")
    assert collection.startswith(f"pointsman.yaml: collections.handbook: {tmp_path}/docs is not a folder; create it")
    assert adapter.startswith(f"pointsman.yaml: adapters.triage.folder: {tmp_path}/triage has no adapter_config.json")
    assert last.endswith("1 paths, 0 tasks, well for a gateway alone; see above what `pointsman up` needs")


async def ended(process: asyncio.subprocess.Process) -> tuple[Any, str, str]:
    out, errors = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode, out.decode(), errors.decode()
