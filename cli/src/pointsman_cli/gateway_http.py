"""Calls the gateway over HTTP: asks questions, sends feedback, and fetches JSON.

An answer is a sequence of events: the routing decision, parts of the text, and the usage and cost. gRPC calls yield the
same events.
"""

import asyncio
import json
import math
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import httpx
from pointsman_servicekit.http_client import open_async_client

from pointsman_cli.errors import CommandError, Refused, Unreachable
from pointsman_cli.options import bearer

Item = TypeVar("Item")

_LONE_SURROGATES = re.compile(r"[\ud800-\udfff]")
_TIMEOUT = httpx.Timeout(130.0, connect=5.0)  # seconds; shorter than the gateway's default limit for a request, 600


@dataclass(frozen=True, slots=True)
class ConsideredPath:
    """A path (a way to answer) that the gateway considered for a request: its name, its outcome, and the reason."""

    path: str
    outcome: str  # "chosen", "skipped", "fallback" or "escalation"
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """How the gateway routes a request: the task with its probability, the path that answers, and the reasons.

    `confidence` and `probabilities` are from 0 to 1. `stage` is the part of the classifier that chose the task.
    `costs_usd` are the expected dollars by path, and `margin` is the difference between the two highest probabilities.
    """

    id: str
    task: str
    confidence: float  # the task's probability, 0 to 1; not a number if the gateway sent none
    path: str
    kind: str  # "prompt", "rag", "lora", "tuned" or "hybrid"
    reason: str  # why this path: "policy:fixed"; all values are in gateway.proto
    stage: str = ""  # of the classifier, that decided: "encoder"; all values are in gateway.proto
    probabilities: Mapping[str, float] = field(default_factory=dict)  # by task, most likely first
    considered: tuple[ConsideredPath, ...] = ()
    expected_cost_usd: float | None = None  # what the receipt would state
    costs_usd: Mapping[str, float | None] = field(default_factory=dict)  # the same by path, known from `/v1/route` only
    margin: float | None = None  # difference between the first and second probability
    in_distribution_score: float | None = None  # below 0: unlike the training examples
    notes: tuple[str, ...] = ()
    revision: str = ""  # of the configuration that decided


@dataclass(frozen=True, slots=True)
class TextChunk:
    """A part of the text of a streamed answer; of an answer that is not streamed, the whole text."""

    content: str


@dataclass(frozen=True, slots=True)
class AnswerEnd:
    """Usage and cost of a finished answer; a value that the gateway did not report is None, 0 or empty."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost_usd: float | None = None
    path: str = ""  # the path that answered in the end
    sources: tuple[str, ...] = ()  # headings, titles or ids of the retrieved passages, best first
    escalated_from: str = ""  # the path whose answer failed validation
    cached_tokens: int = 0  # part of prompt_tokens
    cost_parts_usd: Mapping[str, float] = field(default_factory=dict)  # by component: "prompt", "completion"
    finish_reason: str = ""  # in OpenAI's terms: "stop", "length"
    default_max_tokens: int | None = None  # the limit by the kind of path; None if request or path set another
    model: str = ""  # the base model or the adapter version


Event = Decision | TextChunk | AnswerEnd
"""One event of an answer. An answer is one Decision, any number of TextChunks, and one AnswerEnd, in this order."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question to the gateway: the user's message, the `model` that a client names ("auto" or "path:NAME"), and
    whether the answer is streamed.
    """

    text: str
    model: str
    stream: bool = True


async def ask_http(url: str, question: Question, key: str = "") -> AsyncIterator[Event]:
    """Sends the question to the gateway at the base URL `url`, and yields the events of the answer.

    The events are one Decision, the answer's TextChunks, and one AnswerEnd. `key` is the API key; none is sent if it is
    empty. Raises Refused if the gateway answers with an error, Unreachable if no connection can be opened, and
    CommandError for any other failure.
    """
    body = _body(question) | {"stream": question.stream}
    if question.stream:
        body["stream_options"] = {"include_usage": True}
    async with open_client(url, bearer(key)) as client:
        async for event in stream_answer(client, body):
            yield event


async def stream_answer(client: httpx.AsyncClient, body: Mapping[str, Any]) -> AsyncIterator[Event]:
    """Posts `body` to /v1/chat/completions, and yields the events of the answer: a Decision, TextChunks, an AnswerEnd.

    `body` must have the key `stream`. The AnswerEnd of a streamed answer has values only if `stream_options` of the
    body asks for usage.

    Raises Refused if the gateway answers or ends the stream with an error, Unreachable if no connection can be opened,
    and CommandError if the gateway does not answer in time, the connection fails, the server is no Pointsman gateway,
    or the response is not JSON, has another form or ends too early.
    """
    with _connection_errors(str(client.base_url)):
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            if not response.is_success:
                raise _error_of(response, await response.aread())
            yield _decision_from_headers(response.headers)
            if body["stream"]:
                async for event in _stream_events(response):
                    yield event
            else:
                answer = _json(await response.aread())
                with _expecting_form("answer"):
                    choice = answer["choices"][0]
                    text = _replace_surrogates(choice["message"]["content"] or "")
                    end = _answer_end(answer, response.headers, choice.get("finish_reason"))
                yield TextChunk(text)
                yield end


async def get_json(client: httpx.AsyncClient, path: str) -> dict[str, Any]:
    """Gets `path` below the client's base URL, and returns the JSON object of the response.

    Raises Refused if the gateway answers with an error, Unreachable if no connection can be opened, and CommandError if
    the gateway does not answer in time or the response is not a JSON object.
    """
    with _connection_errors(str(client.base_url)):
        response = await client.get(path)
    if not response.is_success:
        raise _error_of(response, response.content)
    return _json(response.content)


async def request_route(url: str, question: Question, key: str, include_prompt: bool) -> dict[str, Any]:
    """Asks `/v1/route` how the gateway would route the question, and returns the JSON object of the response.

    `to_decision` converts this object to a Decision. With `include_prompt`, the object also has the key `prompt` with
    the messages of the prompt. Raises Refused, Unreachable or CommandError, as `get_json` does.
    """
    return await _post(url, "/v1/route", _body(question) | {"include_prompt": include_prompt}, key)


async def send_feedback(url: str, feedback: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Posts `feedback`, the JSON body with a rating or correction of an answer, to `/v1/feedback`.

    Returns the JSON object of the response: `stored` says where the feedback is stored ("request_log" or "wal", the
    write-ahead log), and `known_already` whether equal feedback was sent before. Raises Refused, Unreachable or
    CommandError as `stream_answer` does.
    """
    return await _post(url, "/v1/feedback", feedback, key)


async def _post(url: str, path: str, body: Mapping[str, Any], key: str) -> dict[str, Any]:
    async with open_client(url, bearer(key)) as client:
        return await post_json(client, path, body)


async def post_json(client: httpx.AsyncClient, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Posts `body` as JSON to `path` below the client's base URL, and returns the JSON object of the response.

    Raises Refused if the gateway answers with an error, Unreachable if no connection can be opened, and CommandError if
    the gateway does not answer in time or the response is not a JSON object.
    """
    with _connection_errors(str(client.base_url)):
        response = await client.post(path, json=body)
    if not response.is_success:
        raise _error_of(response, response.content)
    return _json(response.content)


def to_decision(body: Mapping[str, Any]) -> Decision:
    """Converts the JSON object of `/v1/route` to a Decision; raises KeyError or TypeError if a field is missing."""
    decision = Decision(**{field.name: body[field.name] for field in fields(Decision)})
    considered = tuple(ConsideredPath(**entry) for entry in body["considered"])
    return replace(decision, considered=considered, notes=tuple(body["notes"]))


def _body(question: Question) -> dict[str, Any]:
    return {"model": question.model, "messages": [{"role": "user", "content": question.text}]}


def open_client(url: str, headers: Mapping[str, str] | None = None) -> httpx.AsyncClient:
    # trust_env: proxies are not used for local services. limits: httpx must not queue requests, since callers measure
    # their time.
    return open_async_client(
        base_url=url, headers=headers, timeout=_TIMEOUT, trust_env=False, limits=httpx.Limits(max_connections=None)
    )


def unreachable(url: str, error: httpx.ConnectError, option: str) -> Unreachable:
    """Returns the error to raise if no connection to the gateway at `url` can be opened.

    The message names `option`, the command-line option that sets the URL, and the reason if the host's name cannot be
    resolved or TLS fails.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, socket.gaierror | ssl.SSLError):
            return Unreachable(
                f"the gateway at {url} cannot be reached: {cause}; check the address and the certificates, or name "
                f"another with {option}"
            )
        cause = cause.__cause__ or cause.__context__
    return Unreachable(
        f"no gateway answers at {url}; start one with `pointsman up EXAMPLE_FOLDER`, or name another with {option}"
    )


@contextmanager
def _connection_errors(url: str) -> Iterator[None]:
    url = url.rstrip("/")
    try:
        yield
    except httpx.TimeoutException as error:
        raise CommandError(f"the gateway at {url} did not answer in time") from error
    except httpx.ConnectError as error:
        raise unreachable(url, error, "--url") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise CommandError(f"the connection to the gateway at {url} failed: {error}") from error


@contextmanager
def _expecting_form(what: str) -> Iterator[None]:
    """Raises CommandError, which names `what` the gateway sent, if the block fails on JSON of another form."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise CommandError(f"the gateway's {what} is not as expected: {error!r}; is it of another version?") from error


def _error_of(response: httpx.Response, content: bytes) -> CommandError:
    status = response.status_code
    try:
        error = json.loads(content)["error"]
        message, code = f"{error['message']} ({error['code']}, HTTP {status})", str(error["code"])
    except (ValueError, KeyError, TypeError):
        message, code = f"HTTP {status}: {content[:200].decode(errors='replace')}", f"http_{status}"
    retry_after = response.headers.get("retry-after", "")
    limited = status == httpx.codes.TOO_MANY_REQUESTS and retry_after.isdecimal()
    return Refused(message, code, float(retry_after) if limited else None)


def _decision_from_headers(headers: httpx.Headers) -> Decision:
    def header(name: str) -> str:
        value: str = headers.get(f"x-pointsman-{name}", "")
        return value

    if not header("decision-id"):
        raise CommandError("the server is not a Pointsman gateway: it sent no x-pointsman-decision-id header")
    confidence = _number(headers, "x-pointsman-confidence")
    return Decision(
        id=header("decision-id"),
        task=header("task"),
        confidence=math.nan if confidence is None else confidence,
        path=header("path"),
        kind=header("kind"),
        reason=header("reason"),
    )


def _number(headers: httpx.Headers, name: str) -> float | None:
    """Returns the number in a header; None if it is missing or empty. Raises CommandError if it is no number."""
    value: str = headers.get(name, "")
    try:
        return float(value) if value else None
    except ValueError:
        raise CommandError(f"the gateway's header {name} is '{value[:80]}', which is no number") from None


async def _stream_events(response: httpx.Response) -> AsyncIterator[Event]:
    end, finish_reason = AnswerEnd(), ""
    async for line in _lines(response):
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            yield end
            return
        chunk = _json(data)
        with _expecting_form("stream"):
            if "error" in chunk:
                message, code = chunk["error"]["message"], chunk["error"].get("code")
                raise Refused(f"the answer was cut off: {message} ({code})", str(code))
            texts = []
            for choice in chunk.get("choices", ()):
                finish_reason = choice.get("finish_reason") or finish_reason
                if content := choice.get("delta", {}).get("content"):
                    texts.append(TextChunk(_replace_surrogates(content)))
            if chunk.get("usage"):
                end = _answer_end(chunk, response.headers, finish_reason)
        for text in texts:
            yield text
    raise CommandError("the answer was cut off: the stream ended without [DONE]")


async def _lines(response: httpx.Response) -> AsyncIterator[str]:
    """Yields the lines of a response, split at line feeds only: JSON strings may contain U+2028 and the like."""
    rest = ""
    async for piece in response.aiter_text():
        *lines, rest = (rest + piece).split("\n")
        for line in lines:
            yield line
    yield rest


def _replace_surrogates(text: str) -> str:
    """Replaces lone surrogates, which JSON can express but no file or terminal can hold, by U+FFFD."""
    return _LONE_SURROGATES.sub("\ufffd", text)


def _answer_end(answer: Mapping[str, Any], headers: httpx.Headers, finish_reason: str | None) -> AnswerEnd:
    usage, receipt = answer.get("usage") or {}, answer.get("pointsman") or {}
    cost = receipt["cost_usd"] if "cost_usd" in receipt else _number(headers, "x-pointsman-cost-usd")
    return AnswerEnd(
        prompt_tokens=usage.get("prompt_tokens"),
        completion_tokens=usage.get("completion_tokens"),
        cost_usd=cost,
        path=receipt.get("path", ""),
        sources=tuple(
            source.get("heading") or source["title"] or source["document_id"] for source in receipt.get("sources", ())
        ),
        escalated_from=receipt.get("escalated_from", ""),
        cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
        cost_parts_usd=receipt.get("cost_parts_usd", {}),
        finish_reason=finish_reason or "",
        default_max_tokens=receipt.get("default_max_tokens"),
        model=answer.get("model", ""),
    )


def _json(content: str | bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError as error:
        raise CommandError(f"the gateway's response is not JSON: {content[:200]!r}") from error
    if not isinstance(found, dict):
        raise CommandError(f"the gateway's response is not a JSON object: {content[:200]!r}")
    return found


async def run_concurrently(work: Callable[[Item], Awaitable[None]], items: Iterable[Item], at_once: int) -> None:
    """Calls `work` for each of `items`, with at most `at_once` calls at a time, and waits for all of them.

    The first error cancels the calls in progress, and is raised when they have ended.
    """
    waiting = iter(items)

    async def work_on() -> None:
        for item in waiting:  # all workers share one iterator
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(work_on())
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
