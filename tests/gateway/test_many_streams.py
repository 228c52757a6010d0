"""Hundreds of concurrent streams of one tenant through a gateway with default settings."""

import asyncio
from pathlib import Path

import aiohttp

from tests.gateway.doubles.engine import answer, beginning, running_engine
from tests.gateway.doubles.waiting import until
from tests.security.keyed_gateway import CHAT, HELLO, keyed_gateway

STREAMS = 300
SECONDS = 60.0


async def test_one_tenant_has_300_concurrent_streams_and_another_is_still_answered(tmp_path: Path) -> None:
    gate = asyncio.Event()
    async with (
        running_engine() as engine,
        keyed_gateway(tmp_path, engine.url, {"timeouts": {"connect_seconds": 30}}) as gateway,
        aiohttp.ClientSession(gateway.process.url, connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        engine.script = lambda body: [*beginning("a"), gate, *answer("b")] if body["messages"] == HELLO else answer("c")
        key = await gateway.key("one")

        async def stream() -> tuple[int, bool]:
            body = {"model": "tiny", "messages": HELLO, "stream": True}
            async with session.post(CHAT, json=body, headers=key) as response:
                return response.status, (await response.read()).endswith(b"data: [DONE]\n\n")

        streams = [asyncio.create_task(stream()) for _ in range(STREAMS)]
        await until(lambda: engine.running == STREAMS, SECONDS)
        other = await gateway.chat(await gateway.key("other"), messages=[{"role": "user", "content": "c?"}])
        assert other.status_code == 200
        gate.set()
        assert await asyncio.gather(*streams) == [(200, True)] * STREAMS
