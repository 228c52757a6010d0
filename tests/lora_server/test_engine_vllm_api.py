"""The lora-server's calls to the engine, with a double of it as a real server."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import aiohttp
import pytest
from pointsman_lora_server.engine import vllm_client
from pointsman_lora_server.engine.command import SECRET_VARIABLE, GuardSecret
from pointsman_lora_server.engine.vllm_client import LoadedAdapter, VllmClient
from pointsman_servicekit.errors import InvalidArgument, NotFound, ResourceExhausted, Unavailable

from tests.ports import free_port

DOUBLE = Path(__file__).parent / "fake_engine.py"
BASE = "tiny-base"
SLOTS = 2
Folder = Callable[..., Path]


@pytest.fixture
def secret() -> GuardSecret:
    return GuardSecret()


@pytest.fixture
def api_key() -> str:
    return ""


@pytest.fixture
def url(secret: GuardSecret, api_key: str) -> Iterator[str]:
    port = str(free_port())
    options = ("--port", port, "--base", BASE, "--slots", str(SLOTS))
    keys = {SECRET_VARIABLE: secret(), "VLLM_API_KEY": api_key}
    with subprocess.Popen([sys.executable, DOUBLE, *options], env=os.environ | keys) as double:
        yield f"http://127.0.0.1:{port}"
        double.kill()


@pytest.fixture
async def engine(url: str, secret: GuardSecret, api_key: str) -> AsyncIterator[VllmClient]:
    async with vllm_client.open_client(url, secret, api_key) as engine, asyncio.timeout(30):
        while not await engine.is_healthy():  # noqa: ASYNC110 -- another process
            await asyncio.sleep(0.01)
        yield engine


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    def make(**config: object) -> Path:
        made = tmp_path / str(len(list(tmp_path.iterdir())))
        made.mkdir()
        (made / "adapter_config.json").write_text(json.dumps(config))
        return made

    return make


async def test_an_adapter_is_loaded_used_closed_and_removed(engine: VllmClient, folder: Folder) -> None:
    await engine.load("a@1", folder())
    answer = await engine.complete("a@1", "Hello", 3)
    assert (answer.text, len(answer.token_ids), len(answer.logprobs)) == ("a@1 word word", 3, 3)
    assert answer.finish_reason == "length"
    (loaded,) = (await engine.list_adapters()).values()
    assert (loaded.in_flight, loaded.requests, loaded.open) == (0, 1, True)

    assert await engine.close_adapter("a@1") == 0

    with pytest.raises(NotFound) as caught:
        await engine.complete("a@1", [1, 2, 3], 1)
    assert caught.value.code == "not_loaded"
    assert await engine.remove("a@1")
    assert await engine.list_adapters() == {}


async def test_nothing_is_removed_while_an_answer_is_in_flight(engine: VllmClient, url: str, folder: Folder) -> None:
    await engine.load("a@1", folder())
    async with aiohttp.ClientSession(url) as session, asyncio.timeout(30):
        await session.post("/hold", json={"what": "answers"})
        answer = asyncio.create_task(engine.complete("a@1", "Hello", 3))
        while not (await engine.list_adapters())["a@1"].in_flight:  # noqa: ASYNC110 -- another process
            await asyncio.sleep(0.01)

        assert await engine.close_adapter("a@1") == 1
        assert not await engine.remove("a@1")

        await session.post("/release")
        assert (await answer).text == "a@1 word word"
        assert await engine.remove("a@1")


async def test_loading_again_reopens_a_closed_adapter(engine: VllmClient, folder: Folder) -> None:
    made = folder()
    await engine.load("a@1", made)
    await engine.close_adapter("a@1")

    await engine.load("a@1", made)

    assert isinstance((await engine.list_adapters())["a@1"], LoadedAdapter)
    assert (await engine.complete("a@1", "Hello", 1)).text == "a@1"


async def test_rejected_adapters_and_a_full_engine_have_different_errors(engine: VllmClient, folder: Folder) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await engine.load("bad@1", folder(behaviour="refused"))
    assert refused.value.code == "engine_refused"
    for number in range(SLOTS):
        await engine.load(f"a@{number}", folder())

    with pytest.raises(ResourceExhausted) as full:
        await engine.load("one@more", folder())

    assert full.value.code == "no_slot"


async def test_an_unscorable_answer_is_an_error(engine: VllmClient, folder: Folder) -> None:
    await engine.load("mute@1", folder(behaviour="silent"))

    with pytest.raises(InvalidArgument) as caught:
        await engine.complete("mute@1", "Hello", 2)

    assert caught.value.code == "cannot_answer"


async def test_answers_with_non_finite_logits_are_counted(engine: VllmClient, folder: Folder) -> None:
    assert await engine.count_corrupted() == 0
    await engine.load("bad@1", folder(behaviour="poison"))
    await engine.complete("bad@1", "Hello", 1)

    assert await engine.count_corrupted() == 1


@pytest.mark.parametrize("api_key", ["sk-1"])
async def test_an_engines_api_key_is_sent(engine: VllmClient, url: str, secret: GuardSecret) -> None:
    assert (await engine.complete(BASE, "Hello", 1)).text == BASE
    async with vllm_client.open_client(url, secret) as keyless:
        with pytest.raises(Unavailable):  # no adapter is the cause
            await keyless.complete(BASE, "Hello", 1)


async def test_a_previous_starts_secret_is_rejected(engine: VllmClient, secret: GuardSecret, folder: Folder) -> None:
    secret.renew()

    for asked in (
        engine.list_adapters(),
        engine.load("a@1", folder()),
        engine.close_adapter("a@1"),
        engine.remove("a@1"),
    ):
        with pytest.raises(Unavailable):
            await asked


async def test_an_unreachable_engine_is_unavailable(secret: GuardSecret, folder: Folder) -> None:
    async with vllm_client.open_client("http://127.0.0.1:9", secret) as engine:
        assert not await engine.is_healthy()
        with pytest.raises(Unavailable) as caught:
            await engine.load("a@1", folder())
        assert caught.value.code == "engine_unavailable"
        with pytest.raises(Unavailable):
            await engine.complete(BASE, "Hello", 1)


def test_a_secret_is_never_shown_and_differs_per_start() -> None:
    secret = GuardSecret()
    first = secret()

    assert first not in f"{secret} {secret!r}"
    assert len(first) == 64
    assert secret.renew() == secret() != first
