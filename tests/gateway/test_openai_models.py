"""`GET /v1/models` lists all names that a request may use, and each can be retrieved."""

from collections.abc import AsyncIterator

import httpx
import openai
import pytest

from tests.gateway.doubles import openai_shapes as shapes
from tests.gateway.doubles.config_folder import IN_CHAT
from tests.gateway.doubles.gateway import TRIAGE, Gateway, Neighbours, open_http_client
from tests.gateway.doubles.openai_clients import in_a_thread, opening_client


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[openai.AsyncOpenAI]:
    async with opening_client(gateway) as client:
        yield client


async def test_each_listed_model_is_found_by_its_name(neighbours: Neighbours) -> None:
    neighbours.config.models["embeddings"] = {"org/mini:lm": {"local": True, "usd_per_million_tokens": 0.5}}
    await neighbours.ready()
    async with neighbours.gateway() as gateway, opening_client(gateway) as client, open_http_client(gateway) as http:
        listed = [model async for model in client.models.list()]
        names = [model.id for model in listed]
        assert {"auto", "tiny", "path:letter", "triage@prod", "org/mini:lm"} < set(names)
        assert len(names) == len(set(names))
        for model in listed:
            assert await client.models.retrieve(model.id) == model
            shapes.model((await http.get(f"/v1/models/{model.id}")).json())
        assert (
            await in_a_thread(gateway, lambda c: c.models.retrieve("org/mini:lm")) == listed[names.index("org/mini:lm")]
        )


@pytest.mark.parametrize("name", ["nobody", "path:nowhere", "triage@never", "a/b/c", "..%2f..%2fetc%2fpasswd"])
async def test_an_unknown_model_is_not_found(client: openai.AsyncOpenAI, name: str) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        await client.models.retrieve(name)
    assert (unknown.value.code, unknown.value.param) == ("unknown_model", "model")


async def test_names_do_not_reveal_file_paths(http: httpx.AsyncClient) -> None:
    names = [model["id"] for model in (await http.get("/v1/models")).json()["data"]]
    assert not [name for name in names if name.startswith(("/", ".")) or "pointsman/" in name]


async def test_the_answers_model_is_the_adapters_version(client: openai.AsyncOpenAI) -> None:
    got = await client.responses.create(model="triage@prod", input=IN_CHAT)
    assert got.model == TRIAGE
