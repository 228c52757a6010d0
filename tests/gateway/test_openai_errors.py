"""Errors of every route have OpenAI's format and are parsed by its client."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from pointsman_gateway.http.asgi_answer import send_error
from pointsman_gateway.http.encoding import error_headers
from pointsman_servicekit.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    PointsmanError,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)

from tests.gateway.doubles import openai_shapes as shapes
from tests.gateway.doubles.config_folder import IN_CHAT
from tests.gateway.doubles.engine import BREAK, ScriptedEngine, beginning
from tests.gateway.doubles.gateway import Gateway
from tests.gateway.doubles.openai_clients import opening_client
from tests.gateway.doubles.waiting import until

ROUTES = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/route"]
SMALLEST: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": IN_CHAT}]},
    "/v1/completions": {"prompt": IN_CHAT},
    "/v1/responses": {"input": IN_CHAT},
    "/v1/embeddings": {"input": IN_CHAT},
    "/v1/route": {"messages": [{"role": "user", "content": IN_CHAT}]},
}


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[openai.AsyncOpenAI]:
    async with opening_client(gateway) as client:
        yield client


MALFORMED: list[tuple[bytes, str]] = [
    (b"{", "bad_json"), (b"", "bad_parameter"), (b"\xff\xfe{}", "bad_json"), (b"[]", "bad_parameter"),
    (b"null", "bad_parameter"), (b'"x"', "bad_parameter"), (b"[" * 100_000, "bad_json"),
]  # fmt: skip


@pytest.mark.parametrize("route", ROUTES)
async def test_a_malformed_body_is_a_client_error(http: httpx.AsyncClient, route: str) -> None:
    for body, code in MALFORMED:
        answer = await http.post(route, content=body, headers={"content-type": "application/json"})
        error = shapes.error(answer)
        assert answer.status_code == 400, body[:10]
        assert error["type"] == "invalid_request_error"
        assert error["code"] == code or len(body) > 1000, body[:10]
        assert answer.headers["x-request-id"]


@pytest.mark.parametrize("route", ROUTES[1:])
async def test_a_body_of_another_type_is_refused(http: httpx.AsyncClient, route: str) -> None:
    for kind in ("application/x-www-form-urlencoded", "text/plain", "application/\xff"):
        answer = await http.post(route, content=b"{}", headers={b"content-type": kind.encode("latin-1")})
        error = shapes.error(answer)
        assert (answer.status_code, error["code"], error["param"]) == (400, "bad_content_type", "content-type")
        assert error["message"] == f"content-type is {kind!r}; it must be application/json"
    error = shapes.error(await http.post(route, content=b"{}"))
    assert error["message"] == "content-type is missing; it must be application/json"


async def test_a_body_with_another_json_content_type_is_accepted(http: httpx.AsyncClient) -> None:
    kind = {"content-type": "application/vnd.api+json; charset=utf-8"}
    error = shapes.error(await http.post("/v1/feedback", content=b'{"what": 1}', headers=kind))
    assert (error["code"], error["param"]) == ("bad_parameter", "what")


@pytest.mark.parametrize("route", ROUTES)
async def test_a_body_that_is_too_large_is_refused(http: httpx.AsyncClient, route: str) -> None:
    answer = await http.post(route, content=b" " * (9 * 1024 * 1024), headers={"content-type": "application/json"})
    assert (answer.status_code, shapes.error(answer)["code"]) == (400, "body_too_large")


@pytest.mark.parametrize("route", ROUTES)
async def test_another_method_is_refused(http: httpx.AsyncClient, route: str) -> None:
    for method in ("GET", "PUT", "DELETE"):
        answer = await http.request(method, route)
        assert (answer.status_code, shapes.error(answer)["code"]) == (405, "unknown_route")


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1/chat", "/v1/images/generations", "/v1/responses/resp_1"])
async def test_an_unknown_route_is_reported(http: httpx.AsyncClient, path: str) -> None:
    for method in ("GET", "POST"):
        answer = await http.request(method, path)
        assert (answer.status_code, shapes.error(answer)["code"]) == (404, "unknown_route")


CHAT, COMPLETIONS, RESPONSES, EMBEDDINGS, _ = ROUTES
PICTURE = [{"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,aGk="}]}]
ADVICE: list[tuple[str, dict[str, Any], str, str]] = [
    (CHAT, {"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "a text, or a list of objects"),
    (CHAT, {"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "known: assistant, developer, "),
    (CHAT, {"stop": 5}, "stop", "Input should be a text, or a list of texts"),
    (CHAT, {"temprature": 1}, "temprature", "did you mean 'temperature'?"),
    (CHAT, {"input": "x"}, "input", "and those of the API itself"),
    (COMPLETIONS, {"prompt": [1, "a"]}, "prompt", "a text, a list of texts, a list of token ids, or a list of such"),
    (COMPLETIONS, {"messages": PICTURE}, "messages", "send the 'prompt' alone, or the conversation to /v1/chat"),
    (RESPONSES, {"input": 5}, "input", "a text, or a list of objects"),
    (RESPONSES, {"input": []}, "input", "send a text or an item"),
    (RESPONSES, {"input": PICTURE}, "input", "its model 'tiny' takes text, and no image"),
    (RESPONSES, {"input": [{"role": "robot", "content": "x"}]}, "input[0].role", "known: user, assistant, system"),
    (RESPONSES, {"text": "json"}, "text", "Input should be an object"),
    (RESPONSES, {"max_tokens": 5}, "max_tokens", "send 'max_output_tokens'"),
    (EMBEDDINGS, {"input": 5}, "input", "a text, a list of texts, a list of token ids, or a list of such lists"),
    (EMBEDDINGS, {"dimension": 5}, "dimension", "did you mean 'dimensions'?"),
]


async def test_a_rejection_names_the_endpoints_own_field_and_says_what_would_be_right(http: httpx.AsyncClient) -> None:
    for route, fields, param, advice in ADVICE:
        answer = await http.post(route, json={"model": "tiny", **SMALLEST[route], **fields})
        error = shapes.error(answer)
        assert (answer.status_code, error["param"]) == (400, param), (fields, error)
        assert advice in error["message"], (fields, error)


@pytest.mark.parametrize("route", ROUTES)
async def test_a_request_without_a_model_is_rejected_with_that_reason(http: httpx.AsyncClient, route: str) -> None:
    answer = await http.post(route, json=SMALLEST[route])
    error = shapes.error(answer)
    assert (answer.status_code, error["code"], error["param"]) == (400, "missing_model", "model")


@pytest.mark.parametrize("route", ROUTES)
async def test_an_invalid_timeout_is_rejected(http: httpx.AsyncClient, route: str) -> None:
    answer = await http.post(route, json={"model": "auto", **SMALLEST[route]}, headers={"x-request-timeout": "soon"})
    assert (answer.status_code, shapes.error(answer)["param"]) == (400, "x-request-timeout")


@pytest.mark.parametrize("route", ROUTES[:3])
async def test_a_timeout_is_reported(http: httpx.AsyncClient, engine: ScriptedEngine, route: str) -> None:
    engine.says(asyncio.Event())
    answer = await http.post(route, json={"model": "tiny", **SMALLEST[route]}, headers={"x-request-timeout": "0.2"})
    assert (answer.status_code, shapes.error(answer)["code"]) == (504, "deadline_exceeded")


@pytest.mark.parametrize("kind", ["chat", "completions", "responses"])
async def test_the_client_raises_its_own_classes(client: openai.AsyncOpenAI, engine: ScriptedEngine, kind: str) -> None:
    async def ask(model: str, **more: Any) -> Any:
        if kind == "responses":
            return await client.responses.create(model=model, input=IN_CHAT, **more)
        if kind == "completions":
            return await client.completions.create(model=model, prompt=IN_CHAT, **more)
        messages: list[Any] = [{"role": "user", "content": IN_CHAT}]
        return await client.chat.completions.create(model=model, messages=messages, **more)

    with pytest.raises(openai.NotFoundError, match="unknown model"):
        await ask("nobody")
    with pytest.raises(openai.BadRequestError, match="temperature"):
        await ask("auto", temperature=9)
    engine.says(asyncio.Event())
    with pytest.raises(openai.APITimeoutError):
        await ask("tiny", timeout=0.2)
    await until(lambda: engine.running == 0)
    engine.refuses(500, {})
    with pytest.raises(openai.InternalServerError) as failed:
        await ask("tiny")
    assert failed.value.status_code == 503
    engine.says(*beginning("Hel"), BREAK)
    with pytest.raises(openai.APIStatusError, match="engine 'local' failed"):
        await ask("tiny")


HALF = {
    "/v1/chat/completions": [b'"x": ["\\ud800"]', b'"stop": "\\ud800"', b'"metadata": {"a": "\\ud800"}'],
    "/v1/completions": [b'"suffix": "\\ud800"', b'"stop": ["a", "\\ud800"]'],
    "/v1/responses": [b'"tools": [{"type": "function", "name": "\\ud800"}]', b'"instructions": "\\ud800"'],
    "/v1/embeddings": [b'"user": "\\ud800"', b'"x": {"\\ud800": 1}'],
    "/v1/route": [b'"x": "\\ud800"'],
}


@pytest.mark.parametrize("route", ROUTES)
async def test_a_lone_surrogate_is_rejected_anywhere(
    http: httpx.AsyncClient, engine: ScriptedEngine, route: str
) -> None:
    for field in HALF[route]:
        body = json.dumps({"model": "auto", **SMALLEST[route]}).encode()[:-1] + b", " + field + b"}"
        answer = await http.post(route, content=body, headers={"content-type": "application/json"})
        assert (answer.status_code, shapes.error(answer)["code"]) == (400, "bad_text"), field
    assert engine.bodies == []


CLASSES: list[tuple[type[PointsmanError], type[openai.APIStatusError], str]] = [
    (InvalidArgument, openai.BadRequestError, "invalid_request_error"),
    (Unauthenticated, openai.AuthenticationError, "authentication_error"),
    (PermissionDenied, openai.PermissionDeniedError, "permission_error"),
    (NotFound, openai.NotFoundError, "invalid_request_error"),
    (FailedPrecondition, openai.ConflictError, "invalid_request_error"),
    (ResourceExhausted, openai.RateLimitError, "rate_limit_error"),
    (Unavailable, openai.InternalServerError, "server_error"),
    (DeadlineExceeded, openai.InternalServerError, "server_error"),
    (Internal, openai.InternalServerError, "server_error"),
]


def test_the_time_to_wait_is_rounded_up() -> None:
    """Clients wait exactly as long as the header says, and count the retry."""
    waits = [error_headers(Unavailable("-", code="c", retry_after=seconds)) for seconds in (0.1, 1.0, 21.4, 21.6)]
    assert [headers["retry-after"] for headers in waits] == ["1", "1", "22", "22"]


@pytest.mark.parametrize(("error", "raised", "kind"), CLASSES)
async def test_each_error_status_maps_to_a_class_of_the_client(
    error: type[PointsmanError], raised: type[openai.APIStatusError], kind: str
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send_error(send, error("no", code="so_it_is", param="p", retry_after=7.0), [])

    transport = httpx.ASGITransport(app)
    async with (
        httpx.AsyncClient(transport=transport) as http,
        openai.AsyncOpenAI(base_url="http://gateway/v1", api_key="none", max_retries=0, http_client=http) as client,
    ):
        with pytest.raises(raised) as failed:
            await client.models.list()
    assert type(failed.value) is raised
    assert (failed.value.code, failed.value.param, failed.value.type) == ("so_it_is", "p", kind)
    assert failed.value.response.headers["retry-after"] == "7"
