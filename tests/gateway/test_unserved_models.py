"""A model that no engine serves: clients are told not to retry, unless something else may answer."""

from typing import Any

import pytest
from pointsman_servicekit.errors import NotFound, PointsmanError, Unavailable

from tests.gateway.doubles import anthropic_shapes
from tests.gateway.doubles.api_clients import API_CLIENTS, open_api_client
from tests.gateway.doubles.config_folder import IN_CHAT
from tests.gateway.doubles.engine import ScriptedEngine
from tests.gateway.doubles.gateway import Gateway, Neighbours, open_http_client

MISSING: dict[str, Any] = {"error": {"message": "The model `tiny` does not exist.", "code": "model_not_found"}}


async def test_no_client_sends_the_request_again(gateway: Gateway, engine: ScriptedEngine) -> None:
    engine.refuses(404, MISSING)
    for name in API_CLIENTS:
        async with open_api_client(name, gateway.url, gateway.grpc_address) as api:
            with pytest.raises(NotFound) as raised:
                await api.ask(IN_CHAT, "tiny")
            assert raised.value.code == "model_not_served"
            assert raised.value.message.startswith(
                "engine 'local' answered 404: The model `tiny` does not exist.; check"
            )
    body = {"model": "tiny", "messages": [{"role": "user", "content": IN_CHAT}], "max_tokens": 9}
    async with open_http_client(gateway) as http:
        reply = await http.post("/v1/messages", json=body)
    assert (reply.status_code, anthropic_shapes.error(reply)["type"]) == (404, "not_found_error")
    assert "retry-after" not in reply.headers
    # It is the operator's mistake, which alerts count, and not the client's.
    assert gateway.metric("pointsman_requests_total", outcome="model_not_served", fault="engine") == 5
    assert len(engine.bodies) == 5


async def failure(gateway: Gateway, model: str) -> PointsmanError:
    async with open_api_client("http", gateway.url, gateway.grpc_address) as api:
        with pytest.raises(PointsmanError) as raised:
            await api.ask(IN_CHAT, model)
    return raised.value


@pytest.mark.parametrize("statuses", [(404, 503), (503, 404)])
async def test_a_request_may_be_sent_again_if_another_engine_may_answer_it(
    neighbours: Neighbours, engine: ScriptedEngine, second_engine: ScriptedEngine, statuses: tuple[int, int]
) -> None:
    neighbours.config.models["engines"]["spare"] = {"model": "tiny", "url": second_engine.url}
    for each, status in zip((engine, second_engine), statuses, strict=True):
        each.refuses(status, MISSING)
    await neighbours.ready()
    async with neighbours.gateway() as gateway:
        for _ in range(2):
            error = await failure(gateway, "tiny")
            assert (type(error), error.code) == (Unavailable, "engine_error")


async def test_a_request_may_be_sent_again_if_an_engine_is_away(
    neighbours: Neighbours, engine: ScriptedEngine, second_engine: ScriptedEngine
) -> None:
    neighbours.config.models["engines"]["spare"] = {"model": "tiny", "url": second_engine.url}
    engine.refuses(404, MISSING)
    await neighbours.ready()
    async with neighbours.gateway() as gateway:
        spare = next(state for state in gateway.components.engines.states if state.engine.name == "spare")
        spare.cool_down(20)
        error = await failure(gateway, "tiny")
    assert (type(error), error.code) == (Unavailable, "engine_error")


async def test_a_request_may_be_sent_again_if_another_path_may_answer_it(
    neighbours: Neighbours, engine: ScriptedEngine, second_engine: ScriptedEngine
) -> None:
    models = neighbours.config.models
    models["models"]["large"] = models["models"]["tiny"]
    models["models"]["tiny"] = {**models["models"]["tiny"], "fallback": ["large"]}
    models["engines"]["spare"] = {"model": "large", "url": second_engine.url}
    engine.refuses(503, MISSING)
    second_engine.refuses(404, MISSING)
    await neighbours.ready()
    async with neighbours.gateway() as gateway:
        assert (await failure(gateway, "tiny")).code == "engine_error"
        engine.refuses(404, MISSING)
        assert (await failure(gateway, "tiny")).code == "model_not_served"
