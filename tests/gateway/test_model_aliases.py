"""Aliases of models, and the answer to an unknown model."""

from typing import Any

import httpx
import pytest
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import load_config

from tests.gateway.doubles.api_clients import ApiClient
from tests.gateway.doubles.config_folder import IN_TRIAGE, ConfigFolder
from tests.gateway.doubles.engine import ScriptedEngine
from tests.gateway.doubles.gateway import Neighbours

ALIASES = {"gpt-4o-mini": "auto", "gpt-4o": "path:small_talk", "base": "tiny", "support": "triage@prod"}


@pytest.fixture(autouse=True)
def aliases(neighbours: Neighbours) -> None:
    neighbours.config.models |= {
        "aliases": ALIASES | {"text-embedding-3-small": "minilm"},
        "embeddings": {"minilm": {"local": True, "usd_per_million_tokens": 0.002}},
    }


@pytest.mark.parametrize(
    ("model", "path"),
    [("gpt-4o-mini", "triage_adapter"), ("gpt-4o", "small_talk"), ("base", "tiny"), ("support", "adapter:triage@prod")],
)
async def test_an_alias_is_resolved(api: ApiClient, model: str, path: str) -> None:
    assert (await api.ask(IN_TRIAGE, model)).path == path
    assert (await api.route(IN_TRIAGE, model))["path"] == path


async def test_a_completion_by_an_alias_of_auto_is_a_conversation(
    http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    for model, field in (("gpt-4o-mini", "messages"), ("base", "prompt")):
        await http.post("/v1/completions", json={"model": model, "prompt": IN_TRIAGE})

        assert field in engine.bodies[-1]


async def test_an_embedding_model_may_have_an_alias(http: httpx.AsyncClient) -> None:
    response = await http.post("/v1/embeddings", json={"model": "text-embedding-3-small", "input": "hello"})

    assert response.status_code == 200
    assert len(response.json()["data"][0]["embedding"]) == 384


async def test_aliases_are_listed(http: httpx.AsyncClient) -> None:
    listed = [model["id"] for model in (await http.get("/v1/models")).json()["data"]]

    assert {*ALIASES, "text-embedding-3-small"} <= set(listed)
    assert len(listed) == len(set(listed))


async def test_an_unknown_model_is_an_error(http: httpx.AsyncClient) -> None:
    body = {"model": "gpt-9", "messages": [{"role": "user", "content": IN_TRIAGE}]}

    assert (await http.post("/v1/chat/completions", json=body)).json()["error"]["code"] == "unknown_model"


class TestCatchAll:
    @pytest.fixture(autouse=True)
    def catch_all(self, neighbours: Neighbours) -> None:
        neighbours.config.models["catch_all"] = "auto"

    async def test_an_unknown_model_is_classified(self, http: httpx.AsyncClient) -> None:
        for model, path in (("gpt-9", "triage_adapter"), ("tiny", "tiny")):
            body = {"model": model, "messages": [{"role": "user", "content": IN_TRIAGE}]}

            assert (await http.post("/v1/route", json=body)).json()["path"] == path

    async def test_an_unknown_path_is_an_error(self, http: httpx.AsyncClient) -> None:
        body = {"model": "path:nowhere", "messages": [{"role": "user", "content": IN_TRIAGE}]}

        assert (await http.post("/v1/chat/completions", json=body)).status_code == 404


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"aliases": {"gpt-4o": "path:nowhere"}}, "alias 'gpt-4o' names 'path:nowhere'"),
        ({"aliases": {"auto": "tiny"}}, "alias 'auto' hides"),
        ({"aliases": {"tiny": "auto"}}, "alias 'tiny' hides"),
        ({"aliases": {"path:new": "auto"}}, "alias 'path:new' hides"),
        ({"catch_all": "gpt-4o"}, "catch_all is 'gpt-4o'"),
    ],
)
def test_aliases_are_checked(config_folder: ConfigFolder, settings: dict[str, Any], message: str) -> None:
    config_folder.models |= settings

    with pytest.raises(ConfigError, match=message):
        load_config(config_folder.write())
