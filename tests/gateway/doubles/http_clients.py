"""Clients of the HTTP API."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any

import httpx
from pointsman_servicekit.errors import FAMILIES, PointsmanError

from tests.gateway.doubles.answers import Answer, AnswerChoice, Gathered, Messages, as_messages, to_answer_choice

HTTP_FAMILIES = {family.http_status: family for family in reversed(FAMILIES)}


class HttpClient:
    """A client that requests plain answers."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def ask(self, messages: Messages | str, model: str = "auto", **parameters: Any) -> Answer:
        response = await self._client.post("/v1/chat/completions", json=_body(messages, model, parameters))
        body = _checked_json(response)
        choices = [
            to_answer_choice(c["index"], c["finish_reason"], c["message"], c.get("logprobs")) for c in body["choices"]
        ]
        return _http_answer(choices, body, _headers(response))

    async def models(self) -> list[str]:
        return [model["id"] for model in _checked_json(await self._client.get("/v1/models"))["data"]]

    async def route(self, messages: Messages | str, model: str = "auto", **parameters: Any) -> Mapping[str, Any]:
        return _checked_json(await self._client.post("/v1/route", json=_body(messages, model, parameters)))

    async def say(self, decision_id: str, **feedback: Any) -> tuple[str, bool]:
        answer = await self._client.post("/v1/feedback", json={"decision_id": decision_id, **feedback})
        details = _checked_json(answer)
        assert answer.status_code == {"request_log": 200, "wal": 202}[details["stored"]]
        return details["stored"], details["known_already"]


class HttpStreamClient(HttpClient):
    """A client that requests streamed answers."""

    async def ask(self, messages: Messages | str, model: str = "auto", **parameters: Any) -> Answer:
        parameters |= {"stream": True, "stream_options": {"include_usage": True}}
        gathered, headers = Gathered(), dict[str, str]()
        async for event in self.events(_body(messages, model, parameters), headers):
            for choice in event["choices"]:
                gathered.add(choice["index"], choice["delta"], choice["finish_reason"], choice.get("logprobs"))
        return _http_answer(gathered.choices(), event, headers)

    async def events(
        self, body: Mapping[str, Any], headers: dict[str, str] | None = None
    ) -> AsyncGenerator[dict[str, Any]]:
        """Yields the events before [DONE], and fails if [DONE] does not arrive. Adds the response's headers to
        `headers`.
        """
        async with self._client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != 200:
                await response.aread()
                _checked_json(response)
            if headers is not None:
                headers.update(_headers(response))
            data = b""
            async for data in _data(response):
                if data != b"[DONE]":
                    event = json.loads(data)
                    _raise_error(event, PointsmanError, None)
                    yield event
            assert data == b"[DONE]"


async def _data(response: httpx.Response) -> AsyncIterator[bytes]:
    """Yields the data of each event. Splits lines at newlines only; httpx also splits at characters that may occur in
    text.
    """
    rest = b""
    async for piece in response.aiter_bytes():
        *events, rest = (rest + piece).split(b"\n\n")
        for event in events:
            assert event.startswith(b"data: ")
            yield event.removeprefix(b"data: ")
    assert rest == b""


def _body(messages: Messages | str, model: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {"model": model, "messages": as_messages(messages), **parameters}


def _checked_json(response: httpx.Response) -> dict[str, Any]:
    body: dict[str, Any] = response.json()
    retry_after = response.headers.get("retry-after")
    _raise_error(body, HTTP_FAMILIES.get(response.status_code, PointsmanError), retry_after)
    assert response.is_success
    return body


def _raise_error(body: Mapping[str, Any], family: type[PointsmanError], retry_after: str | None) -> None:
    error = body.get("error")
    if error:
        waiting = float(retry_after) if retry_after else None
        raise family(error["message"], code=error["code"], param=error["param"], retry_after=waiting)


def _http_answer(choices: Sequence[AnswerChoice], last: Mapping[str, Any], headers: Mapping[str, str]) -> Answer:
    """Assembles an answer. `last` has its usage and receipt: the body or, for a stream, the last event."""
    usage, receipt = last["usage"], last["pointsman"]
    return Answer(
        text="".join(choice.content for choice in choices),
        finish_reason=choices[0].finish_reason if choices else "",
        model=last["model"],
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage["completion_tokens"],
        cached_tokens=usage["prompt_tokens_details"]["cached_tokens"],
        cost_usd=receipt["cost_usd"],
        cost_parts_usd=receipt["cost_parts_usd"],
        path=receipt["path"],
        kind=receipt["kind"],
        sources=[source["document_id"] for source in receipt["sources"]],
        choices=tuple(choices),
        default_max_tokens=receipt.get("default_max_tokens"),
        decision_id=last["id"].removeprefix("chatcmpl-"),
        headers=headers,
    )


def _headers(response: httpx.Response) -> dict[str, str]:
    headers = {
        name.removeprefix("x-pointsman-"): value
        for name, value in response.headers.items()
        if name.startswith("x-pointsman-")
    }
    return headers | {"request-id": response.headers["x-request-id"]}
