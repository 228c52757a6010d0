"""A real Prometheus stores the trace exemplars of latencies, and finds them with the dashboards' queries."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.grafana import generate
from tests.gateway.doubles.config_folder import IN_POLICY
from tests.gateway.doubles.gateway import Gateway, Neighbours, open_http_client
from tests.gateway.doubles.span_recorder import Recorded
from tests.gateway.doubles.waiting import found
from tests.ports import free_port

CONFIGURATION = """
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: pointsman-gateway
    static_configs: [{{targets: ["{target}"]}}]
"""
# Debian's name, and that of an installation by hand.
PROGRAM = shutil.which("prometheus") or "/usr/bin/prometheus"

WITH_EXEMPLARS = [
    target["expr"] for panel in generate.panels() for target in panel.written["targets"] if target.get("exemplar")
]
NO_LABELS = {"cluster": "", "namespace": ""}  # as this Prometheus labels nothing, there is nothing to select
EVERYTHING = NO_LABELS | {
    "path": ".*",
    "task": ".*",
    "adapter": ".*",
    "__rate_interval": "1m",
    "datasource": "prometheus",
}


@pytest.fixture
async def prometheus(tmp_path: Path, gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    if not os.access(PROGRAM, os.X_OK):
        pytest.skip("prometheus is not installed: make monitoring-tools")
    (tmp_path / "prometheus.yml").write_text(CONFIGURATION.format(target=gateway.url.removeprefix("http://")))
    address = f"127.0.0.1:{free_port()}"
    options = ["--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address={address}"]
    with (tmp_path / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            PROGRAM, *options, "--enable-feature=exemplar-storage", cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        # verify=False: nothing is encrypted here, and reading the certificates takes longer than most tests.
        async with httpx.AsyncClient(base_url=f"http://{address}", timeout=30, verify=False) as client:
            yield client
    finally:
        process.kill()
        await process.wait()


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


@pytest.fixture
async def gateway(neighbours: Neighbours, recorded: Recorded) -> AsyncIterator[Gateway]:
    await neighbours.ready()
    async with neighbours.gateway(recorded.spans) as gateway:
        yield gateway


async def test_each_panel_with_traces_finds_exemplars_in_prometheus(
    prometheus: httpx.AsyncClient, gateway: Gateway, recorded: Recorded
) -> None:
    async with open_http_client(gateway) as http:
        body = {"model": "auto", "messages": [{"role": "user", "content": IN_POLICY}]}
        assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
    traces = {f"{span.context.trace_id:032x}" for span in recorded.all()}
    assert len(WITH_EXEMPLARS) >= 3
    for expr in WITH_EXEMPLARS:
        query = generate.substituted(expr, EVERYTHING)

        async def named(query: str = query) -> list[Any]:
            try:
                answer = await prometheus.get("/api/v1/query_exemplars", params={"query": query, **_of_all_time()})
            except httpx.TransportError:
                return []  # it is not up yet
            if answer.status_code == 503:
                return []  # nor does it serve yet
            return [one for series in answer.json()["data"] for one in series["exemplars"]]

        kept = await found(named, within=30)
        assert {one["labels"]["trace_id"] for one in kept} == traces


def _of_all_time() -> dict[str, str]:
    return {"start": "2020-01-01T00:00:00Z", "end": "2100-01-01T00:00:00Z"}
