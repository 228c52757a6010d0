"""The images, built and run as in the manifests: the gateway answers a request, with passages from the retriever."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml
from pointsman.v1 import retriever_pb2 as pb
from pointsman.v1 import retriever_pb2_grpc
from pointsman_servicekit.grpc_client import open_channel

from deploy.supply.versions import version
from tests.deploy.manifest_lint.cluster import Cluster
from tests.deploy.rendering import PROJECT, overlay
from tests.gateway.doubles.lora_server import READY, running_lora_server
from tests.gateway.doubles.process_engine import ProcessEngine, process_engine
from tests.gateway.doubles.valkey import running_valkey
from tests.gateway.doubles.waiting import found, until
from tests.images import compose
from tests.images.building import Built, Workshop, base_tar, workshop
from tests.images.commands import made_key
from tests.images.confinement import CONFINED, confinement
from tests.images.pods import pods
from tests.images.running import TOKENS, Container, running
from tests.ports import free_port

NAMES = ("gateway", "retriever", "lora-server")
"""The images under test. The last one has a base without an engine here; `test_engine_image.py` tests it with one."""

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
    """Returns the production manifests, with authentication."""
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


async def test_composes_services_answer_with_passages_and_are_scraped(images: dict[str, Built], tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        network = stack.enter_context(pods(tmp_path / "logs", compose.NAMES, ["runc"]))
        engine = ProcessEngine(tmp_path, "word ", host=network.outside)
        stack.push_async_callback(engine.kill)
        await engine.start()
        variables = {
            "POINTSMAN_CONFIG": str(_policy(tmp_path / "config")),
            "OPENAI_URL": engine.url,
            "OPENAI_API_KEY": "any",
        }
        tokens = {"POINTSMAN_GATEWAY_TOKEN": TOKENS["gateway"], "POINTSMAN_CLI_TOKEN": TOKENS["operator"]}
        composition = compose.Composition(tmp_path, network, {**variables, **tokens, "POINTSMAN_AUTH": "on"})
        at, started = network.addresses, {}
        for name in reversed(compose.NAMES):  # what others depend on comes first
            container = composition.container(name, images.get(name, images["gateway"]))
            started[name] = await stack.enter_async_context(running(container))
        await found(lambda: started["retriever"].is_ready(f"http://{at['retriever']}:9082/readyz"), within=120)
        await _fill(f"{at['retriever']}:8082")
        check = composition.healthcheck("gateway")
        await until(lambda: started["gateway"].is_healthy(check), within=120)

        client = await stack.enter_async_context(httpx.AsyncClient(trust_env=False, timeout=30))
        body = {"model": "path:handbook", "messages": [{"role": "user", "content": "Do I reserve for my bicycle?"}]}
        valkey = f"redis://{at['valkey']}:6379/0"
        key = {"authorization": f"Bearer {made_key(valkey)}"}
        answer = await client.post(f"http://{at['gateway']}:8080/v1/chat/completions", json=body, headers=key)
        assert answer.status_code == 200, started["gateway"].words
        assert answer.json()["choices"][0]["message"]["content"].startswith("word word")
        assert [source["document_id"] for source in answer.json()["pointsman"]["sources"]] == ["bicycles.md"]
        if "prometheus" in at:
            await found(
                lambda: _scraped(client, at["prometheus"], {"pointsman-gateway", "pointsman-retriever"}), within=60
            )
        assert [name for name, each in started.items() if await each.stop(within=60) != 0] == []


def _policy(folder: Path) -> Path:
    """Writes compose.yaml's default configuration, with a path that searches documents."""
    own = yaml.safe_load((PROJECT / "examples" / "minimal" / "pointsman.yaml").read_text())
    retrieval = {"collection": "handbook", "prompt": "passages"}
    own["paths"]["handbook"] = {"model": "gpt-4o-mini", "strategies": [{"retrieval": retrieval}]}
    own["prompts"]["passages"] = "{% for passage in passages %}{{ passage.text }}{% endfor %}"
    own["retrieval"] = {"usd_per_search": 0, "usd_per_embedding": 0}
    folder.mkdir()
    (folder / "pointsman.yaml").write_text(yaml.safe_dump(own))
    return folder


async def _scraped(client: httpx.AsyncClient, prometheus: str, jobs: set[str]) -> bool:
    """Returns whether Prometheus scrapes all running targets and has loaded all rules."""
    body = (await client.get(f"http://{prometheus}:9090/api/v1/targets")).json()["data"]["activeTargets"]
    groups = (await client.get(f"http://{prometheus}:9090/api/v1/rules")).json()["data"]["groups"]
    return bool(groups) and {each["labels"]["job"] for each in body if each["health"] == "up"} == jobs


async def _fill(address: str) -> None:
    async with open_channel(address, token=lambda: TOKENS["operator"]) as channel:
        stub = retriever_pb2_grpc.RetrieverStub(channel)
        await stub.CreateCollection(pb.CreateCollectionRequest(name="handbook", if_missing=True))
        document = pb.Document(id="bicycles.md", title="Bicycles", text=HANDBOOK)
        await stub.Upsert(pb.UpsertRequest(collection="handbook", documents=[document]))
