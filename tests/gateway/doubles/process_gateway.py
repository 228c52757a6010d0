"""The real gateway as a process, `python -m pointsman_gateway`."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from pointsman_servicekit.metrics_page import MAX_AGE_SECONDS
from prometheus_client.parser import text_string_to_metric_families

from tests.gateway.doubles.processes import ROOT, Process
from tests.gateway.doubles.waiting import found


def fit_classifier(config: Path, file: Path) -> Path:
    """Fits the classifier of a configuration once, so that several gateways need not fit the same one at start; returns
    `file`.
    """
    pointsman = Path(sys.executable).parent / "pointsman"
    subprocess.run([str(pointsman), "classifier", "fit", str(config), "--out", str(file)], cwd=ROOT, check=True)
    return file


class ProcessGateway(Process):
    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, object],
        more: Mapping[str, str] = {},
        program: Sequence[str] = ("-m", "pointsman_gateway"),
    ) -> None:
        """Takes the gateway's settings. `more` are further environment variables, and `program` is the module that
        Python runs.
        """
        given = {"http_listen": "127.0.0.1:0", "grpc_listen": "127.0.0.1:0"} | dict(settings)
        environment = {f"POINTSMAN_GATEWAY_{name.upper()}": str(value) for name, value in given.items()} | dict(more)
        self.http_address = str(given["http_listen"])
        listening = r"HTTP on (127.0.0.1:[1-9]\d*), gRPC on (127.0.0.1:[1-9]\d*)"
        super().__init__([sys.executable, *program], environment, folder / "gateway.log", listening)
        self.url = ""
        self.grpc_address = ""

    async def open_clients(self) -> None:
        """Starts the gateway, and returns once it is ready."""
        http_address, self.grpc_address = await self.start()
        self.url = f"http://{http_address}"
        await found(self.is_ready, within=120)

    async def is_ready(self) -> bool:
        return (await self.look("/readyz"))[0] == 200

    async def look(self, path: str) -> tuple[int, str]:
        """Requests a page of the gateway, and returns its status and text."""
        async with aiohttp.ClientSession() as session, session.get(self.url + path) as answer:
            return answer.status, await answer.text()

    async def present_metric(self, name: str, **labels: str) -> float:
        """Returns the same as `metric`, but from a page that is built after this call."""
        await asyncio.sleep(MAX_AGE_SECONDS)
        return await self.metric(name, **labels)

    async def metric(self, name: str, **labels: str) -> float:
        """Returns the sum of all series of `name` with these labels, from a page that is up to a second old."""
        _, page = await self.look("/metrics")
        return sum(
            sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


@asynccontextmanager
async def process_gateway(folder: Path, **settings: object) -> AsyncIterator[ProcessGateway]:
    gateway = ProcessGateway(folder, settings)
    try:
        await gateway.open_clients()
        yield gateway
    finally:
        await gateway.kill()
