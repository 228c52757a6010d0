"""Providers' APIs over real HTTP, each with the URLs, keys, errors and streams of its documentation.

A provider answers a request only if it is written as its documentation says; anything else gets its error.
"""

import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.gateway.doubles.http_server import serving

KEY = "sk-right"
TEXT = "Hello there"
OPENAI_FIELDS = frozenset(
    re.findall(
        r"\w+",
        "model messages stream stream_options max_completion_tokens temperature top_p seed stop n tools tool_choice "
        "response_format frequency_penalty presence_penalty logit_bias logprobs top_logprobs parallel_tool_calls "
        "reasoning_effort",
    )
)
HINTS = frozenset({"prompt_cache_key", "safety_identifier", "verbosity", "modalities", "prediction"})
NO_LOGPROBS = frozenset({"logit_bias", "logprobs", "top_logprobs", "n"})


@dataclass(frozen=True)
class Failure:
    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Shape:
    """One provider's API: its URLs, authentication, errors and streams."""

    chat: str
    """The path of chat completions, with the query."""
    unauthorized: Failure
    busy: Failure
    wait: float | None
    """Seconds to wait that the error `busy` states; None if it states no time."""
    accepts: frozenset[str]
    unknown_field: Failure
    """The error for a field that the provider does not accept; NAME in the body is replaced by the field's name."""
    events: Sequence[Any]
    """The provider's stream: objects are sent as events, bytes as they are."""
    model: str
    """The only model that the provider has."""
    header: str = "authorization"
    scheme: str = "Bearer "
    cached: int = 0
    """Cached tokens in the usage that the provider reports."""
    engine: Mapping[str, str] = field(default_factory=dict)
    """Further settings of an engine of this provider."""
    models: str = ""
    """The path of the list of models; empty if the provider has none."""


def event(content: str | None, finish: str | None = None, usage: Any = None, **more: Any) -> dict[str, Any]:
    """Returns a chunk in OpenAI's format; `more` is added to the delta."""
    delta = {**({} if content is None else {"content": content}), **more}
    chunk = {"id": "chatcmpl-b8", "object": "chat.completion.chunk", "created": 1764320000, "model": "as-served"}
    choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
    return {**chunk, "choices": choices, **({} if usage is None else {"usage": usage})}


def counted(completion: int = 2, cached: int | None = None, **more: Any) -> dict[str, Any]:
    details = {} if cached is None else {"prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0}}
    return {"prompt_tokens": 20, "completion_tokens": completion, "total_tokens": 20 + completion, **details, **more}


def openai_error(message: str, code: Any = None, kind: str = "invalid_request_error") -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


ROLE = event("", role="assistant", refusal=None)
OPENAI_STREAM = [
    ROLE, event("Hello"), event(" there"), event(None, "stop"),
    {**event(""), "choices": [], "usage": counted(cached=8)},
]  # fmt: skip
UNRECOGNIZED = Failure(400, openai_error("Unrecognized request argument supplied: NAME"))
OPENAI_BUSY = Failure(
    429,
    openai_error("Rate limit reached for gpt-4o-mini on tokens per min (TPM)", "rate_limit_exceeded", "tokens"),
    {"retry-after": "2", "retry-after-ms": "1500", "x-ratelimit-reset-tokens": "1.5s", "x-ratelimit-limit-tokens": "9"},
)
FILTERED = {"content_filter_results": {"hate": {"filtered": False, "severity": "safe"}}}
AZURE_STREAM = [
    {"choices": [], "id": "", "object": "", "model": "", "created": 0, "prompt_filter_results": [{"prompt_index": 0}]},
    ROLE, event("Hello"), event(" there"), event(None, "stop"),
    {**event(""), "choices": [], "usage": counted(cached=8)},
]  # fmt: skip
AZURE_DENIED = Failure(401, {"error": {"code": "401", "message": "Access denied due to invalid subscription key."}})
AZURE_BUSY = Failure(
    429,
    {"error": {"code": "429", "message": "Requests have exceeded the token rate limit. Please retry after 7 seconds."}},
    {"retry-after": "7", "retry-after-ms": "6500", "x-ratelimit-remaining-tokens": "0"},
)
GOOGLE_KEY = {
    "error": {
        "code": 400,
        "message": "API key not valid. Please pass a valid API key.",
        "status": "INVALID_ARGUMENT",
        "details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}],
    }
}
GOOGLE_BUSY = {
    "error": {
        "code": 429,
        "message": "You exceeded your current quota.",
        "status": "RESOURCE_EXHAUSTED",
        "details": [
            {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": []},
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "3.5s"},
        ],
    }
}
EXTRA_FORBIDDEN = {
    "object": "error",
    "message": {
        "detail": [{"type": "extra_forbidden", "loc": ["body", "NAME"], "msg": "Extra inputs are not permitted"}]
    },
    "type": "invalid_request_error",
    "param": None,
    "code": None,
}

SHAPES: dict[str, Shape] = {
    "openai": Shape(
        "/v1/chat/completions",
        Failure(401, openai_error("Incorrect API key provided: sk-wrong.", "invalid_api_key")),
        OPENAI_BUSY, 1.5, OPENAI_FIELDS | HINTS, UNRECOGNIZED, OPENAI_STREAM, "gpt-4o-mini", cached=8,
    ),
    "azure": Shape(
        "/openai/v1/chat/completions", AZURE_DENIED, AZURE_BUSY, 6.5, OPENAI_FIELDS | HINTS, UNRECOGNIZED, AZURE_STREAM,
        "my-deployment", header="api-key", scheme="", cached=8,
    ),
    "azure-deployments": Shape(
        "/openai/deployments/my-deployment/chat/completions?api-version=2024-10-21", AZURE_DENIED, AZURE_BUSY, 6.5,
        OPENAI_FIELDS | HINTS, UNRECOGNIZED, AZURE_STREAM, "my-deployment", header="api-key", scheme="", cached=8,
        models="/openai/models?api-version=2024-10-21",
    ),
    "gemini": Shape(  # the usage is in every event, and errors are in a list
        "/v1beta/openai/chat/completions", Failure(400, [GOOGLE_KEY]), Failure(429, [GOOGLE_BUSY]), 3.5,
        OPENAI_FIELDS - {"max_completion_tokens", "logit_bias"} | {"max_tokens"},
        Failure(400, [{"error": {"code": 400, "message": 'Invalid JSON payload received. Unknown name "NAME"'}}]),
        [event("Hello", usage=counted(1)), event(" there", "stop", usage=counted())], "gemini-2.5-flash",
    ),
    "bedrock": Shape(
        "/openai/v1/chat/completions", Failure(403, {"Message": "Authentication failed"}),
        Failure(429, {"message": "Too many tokens, please wait."}, {"x-amzn-errortype": "ThrottlingException"}), None,
        OPENAI_FIELDS - NO_LOGPROBS, UNRECOGNIZED, OPENAI_STREAM, "openai.gpt-oss-20b-1:0", cached=8,
        engine={"region": "us-west-2"},
    ),
    "mistral": Shape(  # it states its usage without being asked, and rejects the question
        "/v1/chat/completions", Failure(401, {"detail": "Unauthorized"}),
        Failure(429, {**openai_error("Requests rate limit exceeded", "1300")["error"], "object": "error"},
                {"ratelimitbysize-reset": "17"}), None,
        OPENAI_FIELDS - NO_LOGPROBS - {"max_completion_tokens", "seed", "stream_options", "reasoning_effort"}
        | {"n", "max_tokens", "random_seed"},
        Failure(422, EXTRA_FORBIDDEN),
        [event("", role="assistant"), event("Hello"), event(" there"), event("", "stop", counted())],
        "mistral-small-latest",
    ),
    "groq": Shape(
        "/openai/v1/chat/completions", Failure(401, openai_error("Invalid API Key", "invalid_api_key")),
        Failure(429, openai_error("Rate limit reached", "rate_limit_exceeded", "tokens"),
                {"retry-after": "2", "x-ratelimit-reset-requests": "2m59.56s", "x-ratelimit-reset-tokens": "7.66s"}),
        2.0, OPENAI_FIELDS - NO_LOGPROBS, Failure(400, openai_error("property 'NAME' is unsupported")),
        [ROLE, event("Hello"), event(" there"), {**event(None, "stop"), "x_groq": {"id": "req_1"}},
         {**event(""), "choices": [], "usage": counted(queue_time=0.01, prompt_time=0.002)}],
        "llama-3.3-70b-versatile",
    ),
    "together": Shape(  # tokens are in each choice twice, and the usage is in the last event with a choice
        "/v1/chat/completions", Failure(401, openai_error("Invalid API key provided.", "invalid_api_key")),
        Failure(429, openai_error("You have reached the rate limit", None, "rate_limit"), {"x-ratelimit-reset": "1"}),
        None, OPENAI_FIELDS - {"max_completion_tokens"} | {"max_tokens", "top_k", "min_p", "repetition_penalty"},
        UNRECOGNIZED,
        [{**event(text), "choices": [{**event(text)["choices"][0], "text": text, "seed": None}]}
         for text in ("Hello", " there")] + [event("", "eos", counted())],
        "meta-llama/Llama-3.3-70B-Instruct-Turbo",
    ),
    "openrouter": Shape(
        "/api/v1/chat/completions", Failure(401, {"error": {"message": "User not found.", "code": 401}}),
        Failure(429, {"error": {"message": "Rate limit exceeded", "code": 429, "metadata": {"headers": {}}}},
                {"retry-after": "4", "x-ratelimit-reset": "1764320000000"}), 4.0,
        OPENAI_FIELDS - {"max_completion_tokens"} | HINTS | {"max_tokens", "top_k", "min_p"},
        UNRECOGNIZED,
        [b": OPENROUTER PROCESSING\n\n", b": OPENROUTER PROCESSING\n\n", ROLE, event("Hello"), event(" there"),
         event("", "stop"), {**event(""), "choices": [], "usage": counted(cached=8, cost=0.0001)}],
        "meta-llama/llama-3.3-70b-instruct", cached=8,
    ),
    "deepseek": Shape(
        "/v1/chat/completions",
        Failure(401, openai_error("Authentication Fails, Your api key: ****rong is invalid", "invalid_request_error")),
        Failure(429, openai_error("Too many requests")), None,
        OPENAI_FIELDS - {"max_completion_tokens", "logit_bias", "n", "parallel_tool_calls"} | {"max_tokens"},
        UNRECOGNIZED,
        [b": keep-alive\n\n", event("", role="assistant", reasoning_content=None), event("Hello"), event(" there"),
         event("", "stop", counted(cached=8, prompt_cache_hit_tokens=8, prompt_cache_miss_tokens=12))],
        "deepseek-chat", cached=8,
    ),
}  # fmt: skip


class ProviderDouble:
    """A server for one provider's API that stores the requests it gets."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.url = ""
        self.bodies: list[dict[str, Any]] = []
        self.urls: list[str] = []
        self.is_busy = False
        self.is_down = False

    async def chat(self, request: web.Request) -> web.StreamResponse:
        shape, body = self.shape, await request.json()
        self.urls.append(str(request.rel_url))
        self.bodies.append(body)
        failure = self._failure(request, body)
        if failure is not None:
            text = json.dumps(failure.body)
            for name in body.keys() - shape.accepts:
                text = text.replace("NAME", name)
            return web.Response(
                status=failure.status, text=text, headers={**failure.headers, "content-type": "application/json"}
            )
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for one in shape.events:
            await response.write(one if isinstance(one, bytes) else b"data: " + json.dumps(one).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response

    def _failure(self, request: web.Request, body: Mapping[str, Any]) -> Failure | None:
        shape = self.shape
        if str(request.rel_url) != shape.chat:
            return Failure(404, {"error": {"message": "Resource not found", "code": "404"}})
        if request.headers.get(shape.header) != shape.scheme + KEY:
            return shape.unauthorized
        if self.is_down:
            return Failure(503, {"error": {"message": "The service is down"}})
        if self.is_busy:
            return shape.busy
        if body.keys() - shape.accepts:
            return shape.unknown_field
        if body["model"] != shape.model:
            return Failure(404, {"error": {"message": f"There is no model {body['model']}", "code": "model_not_found"}})
        return None

    async def models(self, request: web.Request) -> web.Response:
        if request.headers.get(self.shape.header) != self.shape.scheme + KEY:
            return web.json_response(self.shape.unauthorized.body, status=self.shape.unauthorized.status)
        return web.json_response({"object": "list", "data": [{"id": self.shape.model, "object": "model"}]})


@asynccontextmanager
async def running_provider(name: str) -> AsyncIterator[ProviderDouble]:
    shape = SHAPES[name]
    provider = ProviderDouble(shape)
    app = web.Application()
    app.router.add_post("/{path:.*}", provider.chat)
    listing = shape.models.partition("?")[0] or shape.chat.replace("chat/completions", "models")
    app.router.add_get(listing, provider.models)
    async with serving(app, shutdown_timeout=0.1) as provider.url:
        yield provider
