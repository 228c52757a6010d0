"""If a client disconnects, vLLM stops within 200 ms, in every phase and over HTTP and gRPC, according to vLLM's own
gauges.

vLLM updates its gauges once per step, after it has dropped aborted requests, and never interrupts a step. Therefore
steps are limited to 4 tokens here: 16 tokens take 40 to 170 ms, depending on the machine, and a step may have thousands
by default.
"""

import asyncio
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.metrics_page import MAX_AGE_SECONDS

from tests.running_example import EXAMPLE, run_example

MODEL = "smollm2-135m"
PLACES = 2
ENVIRONMENT = {
    "POINTSMAN_LORA_ENGINE_ARGS": f"--max-num-seqs {PLACES} --max-num-batched-tokens 4",
    "POINTSMAN_LORA_PROBE_INTERVAL_SECONDS": "3600",  # a probe's tokens would be counted as the request's
}

PROMISED = 0.2
"""The promised seconds. Since other processes use the cores, only one of TRIES measurements must keep the promise."""
TRIES = 10
ALWAYS = 2.0
"""Seconds that all measurements must stay below."""

ADMITTED = 0.1
"""Seconds after which a request is usually in progress; otherwise the next page of metrics shows it."""

RUNNING, WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
GENERATED = "vllm:generation_tokens_total"
IN_FLIGHT = "pointsman_in_flight"


@dataclass(frozen=True)
class RunningHelpDesk:
    http: str
    grpc: str
    engine: str
    retriever: int
    """The retriever's process id."""


@pytest.fixture(scope="module")
def help_desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHelpDesk]:
    """Runs the example with an engine that has few slots and short steps."""
    home = tmp_path_factory.mktemp("home")
    example = Path(shutil.copytree(EXAMPLE, home / "helpdesk"))
    with run_example(example, home, ENVIRONMENT) as it:
        yield RunningHelpDesk(it.url, it.grpc, it.run["engine"], it.run["processes"]["retriever"]["pid"])


# -- sending requests


@dataclass
class Asked:
    """A request in progress."""

    text: str
    model: str = MODEL
    pieces: list[str] = field(default_factory=list)
    """Chunks of the answer as they arrive; a plain answer is one chunk."""

    @property
    def body(self) -> dict[str, Any]:
        message = {"role": "user", "content": self.text}
        return {"model": self.model, "messages": [message], "max_tokens": 1000, "ignore_eos": True}

    @property
    def message(self) -> pb.GenerateRequest:
        return pb.GenerateRequest(
            model=self.model,
            messages=[pb.Message(role="user", content=self.text)],
            sampling=pb.Sampling(max_tokens=1000, extra_json='{"ignore_eos": true}'),
        )


async def stream_over_http(help_desk: RunningHelpDesk, asked: Asked) -> None:
    await _stream(help_desk.http, asked)


async def plain_over_http(help_desk: RunningHelpDesk, asked: Asked) -> None:
    async with httpx.AsyncClient(timeout=120) as client:
        asked.pieces.append((await client.post(f"{help_desk.http}/v1/chat/completions", json=asked.body)).text)


async def stream_over_grpc(help_desk: RunningHelpDesk, asked: Asked) -> None:
    async with open_channel(help_desk.grpc) as channel:
        async for response in gateway_pb2_grpc.GatewayStub(channel).GenerateStream(asked.message):
            if response.WhichOneof("event") == "delta":
                asked.pieces.append(response.delta.content)


async def once_over_grpc(help_desk: RunningHelpDesk, asked: Asked) -> None:
    async with open_channel(help_desk.grpc) as channel:
        answer = await gateway_pb2_grpc.GatewayStub(channel).Generate(asked.message)
        asked.pieces.append(answer.choices[0].content)


async def _stream(url: str, asked: Asked) -> None:
    body = asked.body | {"stream": True}
    async with (
        httpx.AsyncClient(timeout=120) as client,
        client.stream("POST", f"{url}/v1/chat/completions", json=body) as response,
    ):
        async for line in response.aiter_lines():
            if line.startswith("data: {") and '"content"' in line:
                asked.pieces.append(line)


Way = Callable[[RunningHelpDesk, Asked], Awaitable[None]]

every_way = pytest.mark.parametrize("way", [stream_over_http, plain_over_http, stream_over_grpc, once_over_grpc])


# -- reading metrics


@dataclass(frozen=True)
class Look:
    """Reads metrics of the engine and of the gateway."""

    client: httpx.AsyncClient
    help_desk: RunningHelpDesk

    async def read(self, *names: str) -> list[float]:
        at = self.help_desk.http if names[0].startswith("pointsman") else self.help_desk.engine
        lines = (await self.client.get(f"{at}/metrics")).text.splitlines()
        return [sum(float(line.rpartition(" ")[2]) for line in lines if _is(line, name)) for name in names]

    async def until(self, names: tuple[str, ...], holds: Callable[..., bool], within: float = 60.0) -> float:
        """Waits until `holds` is true for the metrics' values, and returns the seconds that this took."""
        begun = time.monotonic()
        async with asyncio.timeout(within):
            while not holds(*await self.read(*names)):  # noqa: ASYNC110  # the condition is another process's gauge
                await asyncio.sleep(0.02)
        return time.monotonic() - begun


def _is(line: str, name: str) -> bool:
    return line.startswith((name + "{", name + " "))


@pytest.fixture
async def look(help_desk: RunningHelpDesk) -> AsyncIterator[Look]:
    async with httpx.AsyncClient(timeout=60) as client:
        look = Look(client, help_desk)
        await look.until((RUNNING, WAITING), lambda running, waiting: running + waiting == 0)
        yield look


async def kept(attempt: Callable[[int], Awaitable[float]]) -> None:
    """Measures several times; asserts that the best measurement keeps the promise, and that all stay below `ALWAYS`."""
    measured = []
    for number in range(TRIES):
        measured.append(await attempt(number))
        assert measured[-1] < ALWAYS
        if measured[-1] < PROMISED:
            break
    print(f"stopped after {', '.join(f'{1000 * seconds:.0f}' for seconds in measured)} ms")
    assert min(measured) < PROMISED


@asynccontextmanager
async def asking(way: Way, help_desk: RunningHelpDesk, asked: Asked) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.ensure_future(way(help_desk, asked))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# -- the phases


@every_way
async def test_a_disconnect_while_queued(help_desk: RunningHelpDesk, look: Look, way: Way) -> None:
    async def attempt(number: int) -> float:
        async with asking(way, help_desk, Asked(f"{number} Tell me of trains.")) as task:
            await look.until((RUNNING, WAITING), lambda running, waiting: (running, waiting) == (PLACES, 1))
            task.cancel()
            return await look.until((RUNNING, WAITING), lambda running, waiting: (running, waiting) == (PLACES, 0))

    others = [asyncio.create_task(_stream(help_desk.engine, Asked(f"{number} Count."))) for number in range(PLACES)]
    try:
        await look.until((RUNNING,), lambda running: running == PLACES)
        await kept(attempt)
        assert not any(task.done() for task in others)
    finally:
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


@every_way
async def test_a_disconnect_before_the_first_token(help_desk: RunningHelpDesk, look: Look, way: Way) -> None:
    async def attempt(number: int) -> float:
        asked = Asked(f"{way.__name__} {number} {time.time_ns()} " + "ticket " * 3000)  # no prefix of it is cached
        (before,) = await look.read(GENERATED)
        async with asking(way, help_desk, asked) as task:
            await look.until((RUNNING,), lambda running: running == 1)
            task.cancel()
            seconds = await look.until((RUNNING, WAITING), lambda running, waiting: running + waiting == 0)
        assert asked.pieces == []
        assert await look.read(GENERATED) == [before]
        return seconds

    await kept(attempt)


@every_way
async def test_a_disconnect_after_the_first_token(help_desk: RunningHelpDesk, look: Look, way: Way) -> None:
    async def attempt(number: int) -> float:
        asked = Asked(f"{number} Tell me a very long story about trains.")
        (before,) = await look.read(GENERATED)
        async with asking(way, help_desk, asked) as task:
            await look.until((RUNNING, GENERATED), lambda running, made: running == 1 and made >= before + 5)
            assert not task.done()
            assert bool(asked.pieces) == way.__name__.startswith("stream")
            task.cancel()
            return await look.until((RUNNING, WAITING), lambda running, waiting: running + waiting == 0)

    await kept(attempt)


@every_way
async def test_a_disconnect_during_retrieval(help_desk: RunningHelpDesk, look: Look, way: Way) -> None:
    async def attempt(number: int) -> float:
        await asyncio.sleep(MAX_AGE_SECONDS)  # so that the gateway builds a new page of metrics
        before = await look.read(GENERATED, "vllm:prompt_tokens_total")
        with _stopped(help_desk.retriever):
            async with asking(way, help_desk, Asked(f"{number} May I take a bicycle?", "path:handbook_answer")) as task:
                await asyncio.sleep(ADMITTED)
                await look.until((IN_FLIGHT,), lambda in_flight: in_flight == 1)
                await asyncio.sleep(MAX_AGE_SECONDS - PROMISED / 2)  # the next page is built in time to see the end
                task.cancel()
                seconds = await look.until((IN_FLIGHT,), lambda in_flight: in_flight == 0)
        assert await look.read(GENERATED, "vllm:prompt_tokens_total") == before
        return seconds

    await kept(attempt)


@contextmanager
def _stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_stopped_requests_are_metered_as_cancelled(help_desk: RunningHelpDesk) -> None:
    async with httpx.AsyncClient() as client:
        lines = (await client.get(f"{help_desk.http}/metrics")).text.splitlines()
    cancelled = [line for line in lines if line.startswith("pointsman_requests_total") and '"cancelled"' in line]
    assert {path for path in (MODEL, "handbook_answer") for line in cancelled if f'path="{path}"' in line} == {
        MODEL, "handbook_answer",
    }  # fmt: skip
