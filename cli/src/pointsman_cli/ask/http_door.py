"""The gateway's HTTP door, asked."""

import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from pointsman_cli.ask.answer import Considered, Decision, Ending, Event, Question, Text
from pointsman_cli.errors import CommandError, Refused, Unreachable
from pointsman_cli.options import bearer

_HALVES = re.compile(r"[\ud800-\udfff]")
_TIMEOUT = httpx.Timeout(130.0, connect=5.0)  # seconds; the gateway's own for a whole request is 120


async def ask(url: str, question: Question, key: str = "") -> AsyncIterator[Event]:
    """Raises as `events` does."""
    body = _body(question) | {"stream": question.stream}
    if question.stream:
        body["stream_options"] = {"include_usage": True}
    async with open_client(url, bearer(key)) as client:
        async for event in events(client, body):
            yield event


async def events(client: httpx.AsyncClient, body: Mapping[str, Any]) -> AsyncIterator[Event]:
    """The answer to a request's body, streamed where the body says so.

    Raises `Refused` with the gateway's own message where it refuses or breaks off with an error, `Unreachable` where
    it is away, and `CommandError` where what comes is no answer.
    """
    with _reaching(str(client.base_url)):
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            if not response.is_success:
                raise _refusal(response, await response.aread())
            yield _decision_of(response.headers)
            if body["stream"]:
                async for event in _events(response):
                    yield event
            else:
                answer = _json(await response.aread())
                yield Text(_whole(answer["choices"][0]["message"]["content"] or ""))
                yield _ending(answer, response.headers, answer["choices"][0].get("finish_reason"))


async def get(client: httpx.AsyncClient, path: str) -> dict[str, Any]:
    """A route's JSON object. Raises as `events` does."""
    with _reaching(str(client.base_url)):
        response = await client.get(path)
    if not response.is_success:
        raise _refusal(response, response.content)
    return _json(response.content)


async def route(url: str, question: Question, key: str, include_prompt: bool) -> dict[str, Any]:
    """The decision's body as it came."""
    return await _post(url, "/v1/route", _body(question) | {"include_prompt": include_prompt}, key)


async def feedback(url: str, said: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Where it was stored, and whether it was known already."""
    return await _post(url, "/v1/feedback", said, key)


async def _post(url: str, path: str, body: Mapping[str, Any], key: str) -> dict[str, Any]:
    async with open_client(url, bearer(key)) as client:
        with _reaching(url):
            response = await client.post(path, json=body)
    if not response.is_success:
        raise _refusal(response, response.content)
    return _json(response.content)


def to_decision(body: Mapping[str, Any]) -> Decision:
    return Decision(
        id=body["id"],
        task=body["task"],
        confidence=body["confidence"],
        path=body["path"],
        kind=body["kind"],
        reason=body["reason"],
        stage=body["stage"],
        probabilities=body["probabilities"],
        considered=tuple(Considered(**entry) for entry in body["considered"]),
        expected_cost_usd=body["expected_cost_usd"],
        margin=body["margin"],
        familiarity=body["familiarity"],
        notes=tuple(body["notes"]),
        generation=body["generation"],
    )


def _body(question: Question) -> dict[str, Any]:
    return {"model": question.model, "messages": [{"role": "user", "content": question.text}]}


def open_client(url: str, headers: Mapping[str, str] | None = None) -> httpx.AsyncClient:
    # trust_env: a proxy has no place on this machine. limits: who asks many at once times them from their sending.
    return httpx.AsyncClient(
        base_url=url, headers=headers, timeout=_TIMEOUT, trust_env=False, limits=httpx.Limits(max_connections=None)
    )


@contextmanager
def _reaching(url: str) -> Iterator[None]:
    url = url.rstrip("/")
    try:
        yield
    except httpx.TimeoutException as error:
        raise CommandError(f"the gateway at {url} did not answer in time") from error
    except httpx.ConnectError as error:
        raise Unreachable(
            f"no gateway answers at {url}; start one with `pointsman up EXAMPLE_FOLDER`, or name it with --url"
        ) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise CommandError(f"the connection to the gateway at {url} failed: {error}") from error


def _refusal(response: httpx.Response, content: bytes) -> CommandError:
    status = response.status_code
    try:
        error = json.loads(content)["error"]
        message, code = f"{error['message']} ({error['code']}, HTTP {status})", str(error["code"])
    except (ValueError, KeyError, TypeError):
        message, code = f"HTTP {status}: {content[:200].decode(errors='replace')}", f"http_{status}"
    wait = response.headers.get("retry-after", "")
    is_a_limit = status == httpx.codes.TOO_MANY_REQUESTS and wait.isdecimal()
    return Refused(message, code, float(wait) if is_a_limit else None)


def _decision_of(headers: httpx.Headers) -> Decision:
    def header(name: str) -> str:
        value: str = headers.get(f"x-pointsman-{name}", "")
        return value

    if not header("decision-id"):
        raise CommandError("whatever answers there is no Pointsman gateway: it sent no x-pointsman-decision-id")
    return Decision(
        id=header("decision-id"),
        task=header("task"),
        confidence=float(header("confidence") or "nan"),
        path=header("path"),
        kind=header("kind"),
        reason=header("reason"),
    )


async def _events(response: httpx.Response) -> AsyncIterator[Event]:
    ending, finish_reason = Ending(), ""
    async for line in _lines(response):
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            yield ending
            return
        chunk = _json(data)
        if "error" in chunk:
            message, code = chunk["error"]["message"], chunk["error"].get("code")
            raise Refused(f"the answer broke off: {message} ({code})", str(code))
        for choice in chunk.get("choices", ()):
            finish_reason = choice.get("finish_reason") or finish_reason
            if content := choice.get("delta", {}).get("content"):
                yield Text(_whole(content))
        if chunk.get("usage"):
            ending = _ending(chunk, response.headers, finish_reason)
    raise CommandError("the answer broke off: the stream ended without [DONE]")


async def _lines(response: httpx.Response) -> AsyncIterator[str]:
    """httpx's own end at U+2028 and its like too, which may stand as they are in JSON's texts."""
    rest = ""
    async for piece in response.aiter_text():
        *lines, rest = (rest + piece).split("\n")
        for line in lines:
            yield line
    yield rest


def _whole(text: str) -> str:
    """Half of a surrogate pair, which JSON can say and no file or terminal takes, is shown as U+FFFD."""
    return _HALVES.sub("\ufffd", text)


def _ending(answer: Mapping[str, Any], headers: httpx.Headers, finish_reason: str | None) -> Ending:
    usage, ours = answer.get("usage") or {}, answer.get("pointsman") or {}
    in_header = headers.get("x-pointsman-cost-usd")
    return Ending(
        prompt_tokens=usage.get("prompt_tokens"),
        completion_tokens=usage.get("completion_tokens"),
        cost_usd=ours.get("cost_usd", float(in_header) if in_header else None),
        path=ours.get("path", ""),
        sources=tuple(source["title"] or source["document_id"] for source in ours.get("sources", ())),
        escalated_from=ours.get("escalated_from", ""),
        cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
        cost_parts_usd=ours.get("cost_parts_usd", {}),
        finish_reason=finish_reason or "",
        model=answer.get("model", ""),
    )


def _json(content: str | bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError as error:
        raise CommandError(f"the gateway sent something that is not JSON: {content[:200]!r}") from error
    if not isinstance(found, dict):
        raise CommandError(f"the gateway sent something other than a JSON object: {content[:200]!r}")
    return found
