"""A client of the tested OpenAI-compatible API, which sends no more requests than the swap test's limits allow."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
from pointsman_servicekit.http_client import open_async_client

from pointsman_cli.conformance.answers import TimedAnswer, Token
from pointsman_cli.conformance.errors import ApiError, LimitReached
from pointsman_cli.options import bearer

LOGPROB_FIELDS: tuple[Mapping[str, Any], ...] = (
    {"logprobs": 20, "return_tokens_as_token_ids": True},
    {"logprobs": 20},
    {"logprobs": 5},
    {},
)
"""Alternative request fields that ask for log-probabilities; the client uses the first that the engine accepts.

vLLM's `return_tokens_as_token_ids` names tokens by their ids, since the texts of tokens that are parts of one character
are equal.
"""
QUERY_SECONDS = 10.0
MAX_ERROR_CHARACTERS = 200


class OpenAIApi:
    """A client of one OpenAI-compatible URL: requests completions, and lists the models."""

    def __init__(self, http: httpx.AsyncClient, max_requests: int, max_seconds: float, timeout_seconds: float) -> None:
        """Takes the limits of the whole test, `max_requests` and `max_seconds`, and the timeout of one answer."""
        self._http = http
        self._max_requests = max_requests
        self._deadline = time.monotonic() + max_seconds
        self._timeout_seconds = timeout_seconds
        self.requests = 0
        """The number of completions that this client has requested."""
        self.logprob_fields = LOGPROB_FIELDS[0]

    @property
    def seconds_left(self) -> float:
        return self._deadline - time.monotonic()

    @property
    def requests_left(self) -> int:
        return self._max_requests - self.requests

    async def models(self) -> list[dict[str, Any]]:
        """Returns the entries of /v1/models, each a JSON object with the model's name as `id`.

        Raises ApiError if there is no response, its status is not 200, or its body is no list of models.
        """
        try:
            response = await self._http.get("/v1/models", timeout=QUERY_SECONDS)
        except httpx.HTTPError as error:
            raise ApiError(f"no answer: {str(error) or type(error).__name__}") from error
        if response.status_code != 200:
            hint = "; --key-env names the variable with the key" if response.status_code in (401, 403) else ""
            raise ApiError(f"{response.status_code}: {error_text(response.content)}{hint}")
        try:
            entries = response.json()["data"]
            return [model for model in entries if isinstance(model, dict) and isinstance(model.get("id"), str)]
        except (ValueError, KeyError, TypeError):
            raise ApiError(f"the answer is not a list of models: {error_text(response.content)}") from None

    async def complete(
        self, model: str, prompt: str, max_tokens: int, on_token: Callable[[int], None] = lambda _: None
    ) -> TimedAnswer:
        """Requests a completion of `prompt` at temperature 0; returns the answer, whose `error` is empty on success.

        The answer is streamed: `on_token` is called with the number of tokens so far. Raises LimitReached, without a
        request, if the test has reached its maximum number of requests or its maximum time.
        """
        if self.requests >= self._max_requests:
            raise LimitReached(f"the limit of {self._max_requests} requests")
        if self.seconds_left <= 0:
            raise LimitReached("the limit of time")
        self.requests += 1
        body = {
            "model": model,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            **self.logprob_fields,
        }
        answer = _Unfinished(model, prompt, on_token)
        try:
            async with asyncio.timeout(self._timeout_seconds):
                request = self._http.stream("POST", "/v1/completions", json=body, timeout=self._timeout_seconds)
                async with request as response:
                    await answer.read(response)
        except TimeoutError:
            answer.error = f"no end within {self._timeout_seconds:g} s"
        except httpx.HTTPError as error:
            answer.error = f"{type(error).__name__}: {error}"
        except (ValueError, KeyError, TypeError, IndexError) as error:
            answer.error = f"an answer of another form: {type(error).__name__}: {error}"
        return answer.finish()


class _Unfinished:
    """An answer while it is read."""

    def __init__(self, model: str, prompt: str, on_token: Callable[[int], None]) -> None:
        self._model, self._prompt, self._on_token = model, prompt, on_token
        self._tokens: list[Token] = []
        self._texts: list[str] = []
        self._started = time.monotonic()
        self._first_token = 0.0
        self._status = 0
        self._is_overload = False
        self._has_end = False
        self.error = ""

    async def read(self, response: httpx.Response) -> None:
        self._status = response.status_code
        if response.status_code != 200:
            self._is_overload = response.status_code in (429, 503) and "retry-after" in response.headers
            self.error = f"{response.status_code}: {error_text(await response.aread())}"
            return
        async for line in response.aiter_lines():
            data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
            if data == "[DONE]":
                self._has_end = True
            elif data:
                self._add(json.loads(data))

    def _add(self, event: Mapping[str, Any]) -> None:
        if "error" in event:
            self.error = str(event["error"])[:MAX_ERROR_CHARACTERS]
            return
        for choice in event.get("choices", ()):
            self._tokens += _tokens(choice)
            self._texts.append(choice.get("text") or "")
        if self._tokens:
            self._first_token = self._first_token or time.monotonic()
            self._on_token(len(self._tokens))

    def finish(self) -> TimedAnswer:
        is_complete = self._has_end and not self.error
        if not self.error and not self._has_end:
            self.error = "the stream broke off without an error"
        elif not self.error and not self._tokens:
            self.error = "an answer without a token"
        now = time.monotonic()
        return TimedAnswer(
            self._model,
            self._prompt,
            tuple(self._tokens),
            "".join(self._texts),
            self._started,
            self._first_token or now,
            now,
            self.error,
            self._status,
            is_complete,
            self._is_overload,
        )


def _tokens(choice: Mapping[str, Any]) -> list[Token]:
    """Returns the tokens of one event of a completion; without log-probabilities, its text as one token."""
    logprobs = choice.get("logprobs") or {}
    texts = logprobs.get("tokens") or ()
    if not texts:
        return [Token(choice["text"], {})] if choice.get("text") else []
    own = logprobs.get("token_logprobs") or [None] * len(texts)
    tops = logprobs.get("top_logprobs") or [None] * len(texts)
    return [
        Token(text, {} if logprob is None else {**(top or {}), text: float(logprob)})
        for text, logprob, top in zip(texts, own, tops, strict=True)
    ]


def error_text(body: bytes) -> str:
    """Returns the message in the body of an error response, in one line of at most MAX_ERROR_CHARACTERS.

    If the body is not an error in OpenAI's format, returns the beginning of the body.
    """
    try:
        error = json.loads(body)["error"]
        text = str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        text = body.decode("utf-8", "replace")
    return " ".join(text.split())[:MAX_ERROR_CHARACTERS]


@asynccontextmanager
async def open_api(
    url: str, key: str, *, max_requests: int, max_seconds: float, timeout_seconds: float
) -> AsyncIterator[tuple[OpenAIApi, httpx.AsyncClient]]:
    """Opens a client of the API at `url`, a base URL without /v1; closes it after the block.

    Yields the OpenAIApi and the HTTP client that it uses. `key` is the API key; empty: none is sent. `max_requests` and
    `max_seconds` are limits of the whole test, `timeout_seconds` is that of one answer.
    """
    limits = httpx.Limits(max_connections=64)
    async with open_async_client(base_url=url, headers=bearer(key), limits=limits, trust_env=False) as http:
        yield OpenAIApi(http, max_requests, max_seconds, timeout_seconds), http
