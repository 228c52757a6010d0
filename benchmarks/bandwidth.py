"""Measures the bytes on the wire of an answer, streamed and whole: `python -m benchmarks.bandwidth [TOKENS]`.

A client asks a real gateway, which asks a double that answers as vLLM does, one token an event. What goes over both TCP
connections is counted between them, in both directions: HTTP with its heads, without TLS and the heads of packets.
"""

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from benchmarks.gateway_load import answers
from tests.gateway.doubles.config_folder import ConfigFolder
from tests.gateway.doubles.engine import running_engine
from tests.gateway.doubles.process_gateway import process_gateway

TOKENS = 200
REQUESTS = 20
"""Requests of each kind; the first ones of a connection are not counted apart."""
PROMPT = "Summarize this paragraph in one sentence. " * 20
MODELS = Path(__file__).parents[1] / ".pointsman" / "models" / "minilm"


@dataclass
class Wire:
    """A TCP proxy that counts bytes."""

    address: str = ""
    asked: int = 0
    answered: int = 0


@asynccontextmanager
async def counted(target: str) -> AsyncIterator[Wire]:
    """Runs a proxy before `target` (HOST:PORT)."""
    wire, (host, _, port) = Wire(), target.rpartition(":")

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kind: str) -> None:
        while data := await reader.read(65536):
            setattr(wire, kind, getattr(wire, kind) + len(data))
            writer.write(data)
            await writer.drain()
        writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_target, to_target = await asyncio.open_connection(host, int(port))
        await asyncio.gather(carry(reader, to_target, "asked"), carry(from_target, writer, "answered"))

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    wire.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield wire
    finally:
        server.close()


async def measure(tokens: int, requests: int = REQUESTS) -> dict[str, dict[str, float]]:
    """Returns the bytes of one request, by kind of answer and direction."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        engine = await stack.enter_async_context(running_engine())
        pieces = (answers.content(answers.WORDS[number % 8]) for number in range(tokens))
        engine.says(answers.role(), *pieces, answers.finish(), answers.usage(), answers.DONE)
        behind = await stack.enter_async_context(counted(engine.url.removeprefix("http://")))
        config = ConfigFolder(folder / "config")
        config.models["engines"] = {"local": {"model": "tiny", "url": f"http://{behind.address}"}}
        config.paths, config.tasks = {"safe_start": {"model": "tiny"}}, {}
        settings = {"config": config.write(), "embedding_model": MODELS}
        gateway = await stack.enter_async_context(process_gateway(folder, **settings))
        before = await stack.enter_async_context(counted(gateway.url.removeprefix("http://")))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        found = {}
        for kind, more in (("whole", {}), ("streamed", {"stream": True})):
            body = {"model": "tiny", "messages": [{"role": "user", "content": PROMPT}], **more}
            start = [before.asked, before.answered, behind.asked, behind.answered]
            for _ in range(requests):
                async with session.post(f"http://{before.address}/v1/chat/completions", json=body) as answer:
                    text = await answer.read()
                    assert answer.status == 200, text
            now = [before.asked, before.answered, behind.asked, behind.answered]
            names = ("client to gateway", "gateway to client", "gateway to engine", "engine to gateway")
            found[kind] = {name: (after - at) / requests for name, at, after in zip(names, start, now, strict=True)}
        return found


if __name__ == "__main__":
    count = int(sys.argv[1]) if sys.argv[1:] else TOKENS
    for kind_of_answer, wires in asyncio.run(measure(count)).items():
        for direction, size in wires.items():
            print(f"{kind_of_answer} answer of {count} tokens, {direction}: {size:,.0f} bytes")
