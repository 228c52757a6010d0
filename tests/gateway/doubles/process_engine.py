"""An engine in its own process that streams a fixed number of chunks at a fixed rate in answer to every request."""

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from tests.gateway.doubles.engine import DONE, chunk, usage
from tests.gateway.doubles.processes import Process
from tests.ports import free_port


class ProcessEngine(Process):
    """An engine whose chunks all contain `say`, so that an answer shows which engine it is from."""

    def __init__(
        self,
        folder: Path,
        say: str,
        pieces: int = 5,
        first: float = 0.02,
        gap: float = 0.01,
        port: int = 0,
        host: str = "127.0.0.1",
    ) -> None:
        """Takes the text of each chunk. `first` is the time to the first chunk and `gap` the time between chunks, in
        seconds.
        """
        self.host, self.port = host, port or free_port()
        self.url = f"http://{host}:{self.port}"
        pace = ["--pieces", str(pieces), "--first", str(first), "--gap", str(gap)]
        where = ["--host", host, "--port", str(self.port)]
        program = [sys.executable, "-m", "tests.gateway.doubles.process_engine", *where, "--say", say, *pace]
        super().__init__(program, {}, folder / f"engine-{say}.log", "engine is up")


@asynccontextmanager
async def process_engine(folder: Path, say: str, **pace: float) -> AsyncIterator[ProcessEngine]:
    engine = ProcessEngine(folder, say, **pace)  # type: ignore[arg-type]  # `pieces` is a whole number
    await engine.start()
    try:
        yield engine
    finally:
        await engine.kill()


async def _serve(host: str, port: int, say: str, pieces: int, first: float, gap: float) -> None:
    async def chat(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for number in range(pieces):
            await asyncio.sleep(gap if number else first)
            await response.write(_event(chunk(say)))
        await response.write(_event(chunk("", finish="stop")) + _event(usage(20, pieces)) + DONE)
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, host, port, reuse_address=True).start()
    print("engine is up", flush=True)
    await asyncio.Event().wait()


def _event(event: object) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--say")
    parser.add_argument("--pieces", type=int)
    parser.add_argument("--first", type=float)
    parser.add_argument("--gap", type=float)
    given = parser.parse_args()
    asyncio.run(_serve(given.host, given.port, given.say, given.pieces, given.first, given.gap))
