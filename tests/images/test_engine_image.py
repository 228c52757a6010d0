"""The images of the CPU engine and the lora-server, built and run as in the manifests: vLLM answers through the
gateway."""

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree

import httpx
import pytest
import pytest_asyncio

from deploy.supply.versions import version
from tests.deploy.manifest_lint.cluster import Cluster
from tests.deploy.rendering import PROJECT, overlay
from tests.gateway.doubles.valkey import running_valkey
from tests.gateway.doubles.waiting import found
from tests.images.building import Built, base_tar, workshop
from tests.images.commands import made_key, pointsman
from tests.images.confinement import CONFINED, confinement
from tests.images.running import Container, running
from tests.ports import free_address

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXAMPLE = PROJECT / "examples" / "helpdesk"
CLAIM = Path("/var/lib/pointsman/adapters")
"""The mount path of the volume claim `adapters`."""

STARTS = 600
"""Time limit for vLLM's start in seconds; it usually takes 60 to 90 on two cores."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Built]]:
    with workshop(tmp_path_factory.mktemp("images")) as shop:
        base = shop.take_base(base_tar())
        engine = shop.build("engine-cpu", base)
        on_it = shop.build("lora-server", engine.name)
        yield {"engine-cpu": engine, "lora-server": on_it, "gateway": shop.build("gateway", base)}


@pytest.mark.parametrize("name", ["engine-cpu", "lora-server"])
async def test_an_image_has_its_labels_and_no_build_dependencies(images: dict[str, Built], name: str) -> None:
    image = images[name]
    assert image.user == "10001:10001"
    assert image.labels["org.opencontainers.image.version"] == version()
    assert image.leftovers == []


@dataclass
class House:
    lora_server: Container
    gateway: Container
    address: str
    """The lora-server's address."""
    ready: str
    """Address of the lora-server's readiness probe."""
    http: httpx.AsyncClient

    async def answer(self, model: str, text: str) -> tuple[str, str]:
        """Asks the model, and returns the answer and the path that it took."""
        body = {"model": model, "messages": [{"role": "user", "content": text}]}
        answer = await self.http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, f"{answer.text}\n{self.gateway.words}\n{self.lora_server.words[-4000:]}"
        return answer.json()["choices"][0]["message"]["content"], answer.headers["x-pointsman-path"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def services(images: dict[str, Built], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """Runs a gateway and a lora-server in containers, with a real Valkey."""
    folder, cluster = tmp_path_factory.mktemp("services"), Cluster.of(overlay("cpu"))
    http, grpc, metrics, engine = (free_address() for _ in range(4))
    async with running_valkey(folder / "valkey") as valkey:
        to_lora_server = {
            "POINTSMAN_LORA_LISTEN": grpc,
            "POINTSMAN_LORA_METRICS_LISTEN": metrics,
            "POINTSMAN_LORA_ENGINE_LISTEN": engine,
            "POINTSMAN_LORA_REDIS_URL": valkey.url,
        }
        to_gateway = {
            "POINTSMAN_GATEWAY_HTTP_LISTEN": http,
            "POINTSMAN_GATEWAY_GRPC_LISTEN": "127.0.0.1:0",
            "POINTSMAN_GATEWAY_REDIS_URL": valkey.url,
            "POINTSMAN_LORA_SERVER": grpc,
        }
        lora_server, gateway = (
            Container(folder / name, images[name], cluster, cluster.workload(name), settings)
            for name, settings in (("lora-server", to_lora_server), ("gateway", to_gateway))
        )
        key = {"authorization": f"Bearer {made_key(valkey.url)}"}
        async with (
            running(lora_server),
            running(gateway),
            httpx.AsyncClient(base_url=f"http://{http}", headers=key, timeout=180, trust_env=False) as client,
        ):
            yield House(lora_server, gateway, grpc, f"http://{metrics}/readyz", client)


async def test_vllm_starts_with_a_read_only_root(services: House) -> None:
    await found(lambda: services.lora_server.is_ready(services.ready), within=STARTS)
    assert confinement(services.lora_server) == CONFINED
    assert "CPU LoRA kernels of Pointsman are active" in services.lora_server.words
    assert "libtcmalloc is not found" not in services.lora_server.words


async def test_an_adapter_is_smoke_tested_and_answers(services: House) -> None:
    copytree(EXAMPLE / "adapters" / "triage", services.lora_server.volume("adapters") / "triage")
    folder = str(CLAIM / "triage")
    output = pointsman("adapters", "register", "triage", folder, "--alias", "prod", "--lora-server", services.address)
    assert "(triage@prod)" in output
    shown = json.loads(pointsman("adapters", "show", "triage@prod", "--json", "--lora-server", services.address))
    assert (shown["state"], shown["error_code"]) == ("serving", "")
    assert f"{shown['version']} was tried with PEFT" in services.lora_server.words

    base, path = await services.answer("path:small_talk", "Hello there, how are you today?")
    assert (path, base.startswith("{")) == ("small_talk", False)
    assert base.strip()
    triage, path = await services.answer("path:triage_adapter", "Refund please. LM-77120.")
    assert path == "triage_adapter"
    assert json.loads(triage) == {"intent": "refund", "slots": {"booking": "LM-77120"}, "urgency": "normal"}


async def test_memory_and_volumes_stay_within_the_manifests_limits(services: House) -> None:
    used, limits = json.loads(services.lora_server.inside(_USED)), services.lora_server.limits
    assert used.keys() == limits.keys()
    assert {name: (size, limits[name]) for name, size in used.items() if size > limits[name]} == {}


async def test_it_stops_within_its_termination_grace_period(services: House) -> None:
    assert await services.lora_server.stop(within=180) == 0, services.lora_server.words[-4000:]


_USED = """
import glob, json, os

def resident(process):
    with open(process + "/smaps_rollup") as file:
        return sum(1024 * int(line.split()[1]) for line in file if line.startswith("Pss:"))

def written(folder):
    disk = os.statvfs(folder)
    return (disk.f_blocks - disk.f_bfree) * disk.f_frsize

volumes = {folder: written(folder) for folder in ("/dev/shm", "/tmp", "/var/cache/pointsman")}
print(json.dumps({"memory": sum(map(resident, glob.glob("/proc/[0-9]*"))), **volumes}))
"""
