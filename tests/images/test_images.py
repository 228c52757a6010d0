"""The images, built and run as in the manifests: the gateway answers a request, with passages from the retriever."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from pointsman.v1 import retriever_pb2 as pb
from pointsman.v1 import retriever_pb2_grpc
from pointsman_servicekit.grpc_client import open_channel

from deploy.supply.versions import version
from tests.deploy.manifest_lint.cluster import Cluster
from tests.deploy.rendering import overlay
from tests.gateway.doubles.lora_server import READY, running_lora_server
from tests.gateway.doubles.process_engine import process_engine
from tests.gateway.doubles.valkey import running_valkey
from tests.gateway.doubles.waiting import found
from tests.images.building import Built, Workshop, base_tar, workshop
from tests.images.commands import made_key
from tests.images.confinement import CONFINED, confinement
from tests.images.running import TOKENS, Container, running
from tests.ports import free_port

NAMES = ("gateway", "retriever", "lora-server")
"""The last one has a base without an engine; `test_engine_image.py` tests it with one."""

HANDBOOK = "A bicycle travels free outside the rush hour, but its space must be reserved."


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Built]]:
    with workshop(tmp_path_factory.mktemp("images")) as shop:
        yield _built(shop)


def _built(shop: Workshop) -> dict[str, Built]:
    base = shop.take_base(base_tar())
    return {name: shop.build(name, base) for name in NAMES}


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    """The production manifests, with authentication."""
    return Cluster.of(overlay("cpu"))


@pytest.mark.parametrize("name", NAMES)
def test_an_image_has_its_labels_and_no_build_dependencies(images: dict[str, Built], name: str) -> None:
    image = images[name]
    assert image.user == "10001:10001"
    assert image.labels["org.opencontainers.image.version"] == version()
    assert image.leftovers == []


async def test_a_lora_server_in_an_image_without_an_engine_reports_that(
    images: dict[str, Built], cluster: Cluster, tmp_path: Path
) -> None:
    settings = {"POINTSMAN_LORA_REDIS_URL": "redis://127.0.0.1:1/0", "POINTSMAN_LORA_ENGINE_LISTEN": "127.0.0.1:8101"}
    workload = cluster.workload("lora-server")
    async with running(Container(tmp_path / "it", images["lora-server"], cluster, workload, settings)) as container:
        assert await container.ended(within=60) == 1
        assert "there is no /opt/engine/bin/python; name the python of vLLM's environment" in container.words
    assert (images["lora-server"].root / "opt/pointsman/src/pointsman_lora_server/training").is_dir()


@dataclass
class Running:
    gateway: Container
    retriever: Container
    http: httpx.AsyncClient
    key: str


@pytest.fixture
async def services(images: dict[str, Built], cluster: Cluster, tmp_path: Path) -> AsyncIterator[Running]:
    """Runs the gateway and the retriever in containers, with a real Valkey, a scripted engine and a scripted lora-
    server.
    """
    http, retrieval, metrics = (f"127.0.0.1:{free_port()}" for _ in range(3))
    async with (
        running_valkey(tmp_path / "valkey") as valkey,
        process_engine(tmp_path, "word ") as engine,
        running_lora_server() as lora_server,
        running(
            Container(
                tmp_path / "retriever",
                images["retriever"],
                cluster,
                cluster.workload("retriever"),
                {"POINTSMAN_RETRIEVER_LISTEN": retrieval, "POINTSMAN_RETRIEVER_METRICS_LISTEN": metrics},
            )
        ) as retriever,
        httpx.AsyncClient(base_url=f"http://{http}", timeout=30) as client,
    ):
        await lora_server.say(READY, url=engine.url, base_model="smollm2-135m")
        settings = {
            "POINTSMAN_GATEWAY_HTTP_LISTEN": http,
            "POINTSMAN_GATEWAY_GRPC_LISTEN": "127.0.0.1:0",
            "POINTSMAN_GATEWAY_RETRIEVER": retrieval,
            "POINTSMAN_GATEWAY_REDIS_URL": valkey.url,
            "POINTSMAN_LORA_SERVER": lora_server.address,
        }
        container = Container(tmp_path / "gateway", images["gateway"], cluster, cluster.workload("gateway"), settings)
        async with running(container) as gateway:
            await found(lambda: retriever.is_ready(f"http://{metrics}/readyz"), within=120)
            await _fill(retrieval)
            await found(lambda: gateway.is_ready(f"http://{http}/readyz"), within=120)
            yield Running(gateway, retriever, client, made_key(valkey.url))


async def test_a_gateway_confined_as_in_its_manifest_answers_with_passages(services: Running) -> None:
    body = {"model": "path:handbook_answer", "messages": [{"role": "user", "content": "Do I reserve for my bicycle?"}]}
    refused = await services.http.post("/v1/chat/completions", json=body)
    assert refused.status_code == 401
    answer = await services.http.post(
        "/v1/chat/completions", json=body, headers={"authorization": f"Bearer {services.key}"}
    )
    assert answer.status_code == 200, services.gateway.words
    assert answer.json()["choices"][0]["message"]["content"].startswith("word word")
    assert [source["document_id"] for source in answer.json()["pointsman"]["sources"]] == ["bicycles.md"]

    chat = {"model": "auto", "messages": [{"role": "user", "content": "hello there, how are you today?"}]}
    answer = await services.http.post(
        "/v1/chat/completions", json=chat, headers={"authorization": f"Bearer {services.key}"}
    )
    assert answer.headers["x-pointsman-path"] == "small_talk"

    for container in (services.gateway, services.retriever):
        assert confinement(container) == CONFINED
    assert await services.gateway.stop(within=60) == 0
    assert await services.retriever.stop(within=60) == 0


async def _fill(address: str) -> None:
    async with open_channel(address, token=lambda: TOKENS["operator"]) as channel:
        stub = retriever_pb2_grpc.RetrieverStub(channel)
        await stub.CreateCollection(pb.CreateCollectionRequest(name="handbook", if_missing=True))
        document = pb.Document(id="bicycles.md", title="Bicycles", text=HANDBOOK)
        await stub.Upsert(pb.UpsertRequest(collection="handbook", documents=[document]))
