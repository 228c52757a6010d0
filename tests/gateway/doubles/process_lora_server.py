"""A lora-server in its own process that reports one ready engine and its adapters."""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.gateway.doubles.lora_server import READY, running_lora_server
from tests.gateway.doubles.processes import Process
from tests.ports import free_port

VERSION = "triage@3f9a1c0b77de"
OTHER = "triage@0123456789ab"


class ProcessLoraServer(Process):
    def __init__(
        self, folder: Path, engine_url: str, version: str = VERSION, address: str = "", loadable: str = ""
    ) -> None:
        """Takes the engine's URL. The alias `triage@prod` points to `version`; `loadable` is another version, which is
        loaded on demand.
        """
        self.address = address or f"127.0.0.1:{free_port()}"
        arguments = ["--listen", self.address, "--engine-url", engine_url, "--version", version, "--loadable", loadable]
        program = [sys.executable, "-m", "tests.gateway.doubles.process_lora_server", *arguments]
        super().__init__(program, {}, folder / "lora-server.log", "lora-server is up")


@asynccontextmanager
async def process_lora_server(folder: Path, engine_url: str) -> AsyncIterator[ProcessLoraServer]:
    server = ProcessLoraServer(folder, engine_url)
    await server.start()
    try:
        yield server
    finally:
        await server.kill()


async def _serve(listen: str, engine_url: str, version: str, loadable: str) -> None:
    async with running_lora_server(listen) as server:
        offered = [loadable] if loadable else []
        await server.say(READY, url=engine_url, resident=[version], loadable=offered, aliases={"triage@prod": version})
        print("lora-server is up", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen")
    parser.add_argument("--engine-url")
    parser.add_argument("--version")
    parser.add_argument("--loadable")
    given = parser.parse_args()
    asyncio.run(_serve(given.listen, given.engine_url, given.version, given.loadable))
