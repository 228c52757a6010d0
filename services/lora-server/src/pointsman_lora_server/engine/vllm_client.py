"""HTTP client for vLLM's own routes, and for the routes that the guard (our middleware in vLLM) adds for managing
adapters.
"""

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any, BinaryIO
from urllib.parse import quote

import aiohttp
from pointsman_servicekit.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)

from pointsman_lora_server.engine.command import SECRET_HEADER
from pointsman_lora_server.engine.completion import GreedyAnswer, scored_answer
from pointsman_lora_server.engine.engine_errors import engine_unavailable, error_message, expecting_form, no_folder

LOAD_TIMEOUT_SECONDS = 60.0
"""The time limit for loading an adapter, in seconds. A load usually takes 20 to 60 ms, but the engine may be busy."""
COMPLETION_TIMEOUT_SECONDS = 120.0
"""The time limit for a completion, in seconds. An adapter's first completion takes 1.6 s on an idle CPU; on a busy one,
it has to wait."""
QUERY_TIMEOUT_SECONDS = 5.0
MAX_ANSWER_BYTES = 32 * 1024 * 1024
GUARD_ROUTE = "/pointsman/v1/adapters"
_CORRUPTED_METRIC = "vllm:corrupted_requests_total{"


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """The use of an adapter whose weights the engine holds."""

    in_flight: int
    """Number of requests to this adapter that are in progress."""
    requests: int
    """Number of all requests to this adapter since it was loaded."""
    idle_seconds: float
    """Seconds since a request to this adapter last started or ended, or since it was loaded."""
    open: bool
    """Whether the engine accepts new requests to this adapter."""


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """The properties that a running engine reports about itself; a property that it does not report is None or
    empty.
    """

    base_models: frozenset[str]
    """The names under which the engine serves its base model."""
    boot: str = ""
    """A boot id that is different after each start of the engine."""
    held: int | None = None
    """The number of adapters that the lora-server may load into the engine's host memory; None if the engine does not
    report it."""
    max_loras: int | None = None
    max_lora_rank: int | None = None
    max_model_len: int | None = None


class VllmClient:
    """Calls a vLLM with the guard over HTTP. All methods except `is_healthy` raise Unavailable ("engine_unavailable")
    if the engine does not answer in time, or its answer has an unexpected form.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        secret: Callable[[], str],
        engine_path: Callable[[Path], str] = str,
    ) -> None:
        """`url` is the engine's base URL, and `secret` a function that returns the guard's current secret.
        `engine_path` converts the path of a folder on this machine to the path at which the engine sees it.
        """
        self._session = session
        self._url = url
        self._secret = secret
        self._engine_path = engine_path

    async def identify(self) -> EngineFacts:
        """Returns the properties that the engine reports about itself.

        Raises FailedPrecondition if the engine has no guard ("no_guard"), the guard answers with an error, such as for
        a wrong secret ("guard_refused"), the engine has no room for adapters ("no_lora"), or it rejects the API key
        ("bad_api_key").
        """
        status, report = await self._call("GET", GUARD_ROUTE, None, QUERY_TIMEOUT_SECONDS)
        if status in (404, 405):
            raise FailedPrecondition(
                "it runs without the guard: start vLLM with --middleware pointsman_engine_guard.Guard, or leave "
                "POINTSMAN_LORA_ENGINE_SECRET out and have the weaker guarantees",
                code="no_guard",
            )
        if status != 200:
            raise FailedPrecondition(f"its guard answers {status}: {error_message(report)}", code="guard_refused")
        with expecting_form(GUARD_ROUTE):
            boot, held, loras, rank = (report[name] for name in ("boot", "capacity", "max_loras", "max_lora_rank"))
        if not held:
            raise FailedPrecondition(
                "it has no room for adapters: start vLLM with --enable-lora, and --max-cpu-loras above the number of "
                "--lora-modules",
                code="no_lora",
            )
        base_models, max_model_len = await self._base_models()
        return EngineFacts(base_models, boot, held, loras, rank, max_model_len)

    async def _base_models(self) -> tuple[frozenset[str], int | None]:
        """Returns the names of the base model, and the size of its context window in tokens (None if it is not
        reported).

        Raises FailedPrecondition ("bad_api_key") if the engine rejects the API key.
        """
        bases = [model for model in await self._list_models() if not model.get("parent")]
        return frozenset(model["id"] for model in bases), next((model.get("max_model_len") for model in bases), None)

    async def _list_models(self) -> list[dict[str, Any]]:
        status, answer = await self._call("GET", "/v1/models", None, QUERY_TIMEOUT_SECONDS)
        if status == 401:
            raise FailedPrecondition("it answers 401: its API key differs from VLLM_API_KEY here", code="bad_api_key")
        if status != 200:
            raise engine_unavailable(f"{status} to /v1/models")
        with expecting_form("/v1/models"):
            return [dict(model) for model in answer["data"] if isinstance(model["id"], str)]

    async def is_healthy(self) -> bool:
        try:
            return (await self._call("GET", "/health", None, QUERY_TIMEOUT_SECONDS))[0] == 200
        except Unavailable:
            return False

    async def list_adapters(self) -> Mapping[str, LoadedAdapter]:
        """Returns version -> `LoadedAdapter` for the adapters whose weights the engine holds, without those of vLLM's
        option --lora-modules.
        """
        answer = await self._call_guard("GET", "", None, QUERY_TIMEOUT_SECONDS)
        with expecting_form(GUARD_ROUTE):
            return {name: LoadedAdapter(**loaded) for name, loaded in answer["adapters"].items()}

    async def count_in_flight(self) -> int:
        """Returns the number of requests in progress, to the base model and to all adapters except those of vLLM's
        option --lora-modules. A request counts until the last byte of its response is sent.
        """
        answer = await self._call_guard("GET", "", None, QUERY_TIMEOUT_SECONDS)
        with expecting_form(GUARD_ROUTE):
            return sum(int(each["in_flight"]) for each in (answer["base"], *answer["adapters"].values()))

    async def count_tokens(self) -> Mapping[str, float]:
        """Returns version -> the number of tokens that the engine has generated with it since it was loaded. The key ""
        is the base model.

        Prompt tokens are included with a lower weight (`PROMPT_WEIGHT` in the guard). The result is empty if the guard
        is of an older release.
        """
        answer = await self._call_guard("GET", "", None, QUERY_TIMEOUT_SECONDS)
        with expecting_form(GUARD_ROUTE):
            return {str(name): float(count) for name, count in answer.get("tokens", {}).items()}

    async def load(self, version: str, folder: Path) -> None:
        """Loads a version from `folder`, an absolute path on this machine. If the engine already holds the version, it
        is only opened to new requests.

        Raises InvalidArgument ("engine_refused") if the engine rejects the adapter, FailedPrecondition ("engine_store")
        if it does not see the folder, and ResourceExhausted ("no_slot") if its host memory is full.
        """
        await self._call_guard("PUT", f"/{quote(version)}", {"folder": self._engine_path(folder)}, LOAD_TIMEOUT_SECONDS)

    async def close_adapter(self, version: str) -> int:
        """Closes an adapter to new requests, which get status 404. Returns how many of its requests are in flight, 0 if
        it is not loaded.
        """
        answer = await self._call_guard("POST", f"/{quote(version)}/close", None, QUERY_TIMEOUT_SECONDS)
        with expecting_form(GUARD_ROUTE):
            return int(answer["in_flight"])

    async def remove(self, version: str) -> bool:
        """Removes an adapter's weights from the engine and returns True. If requests to the adapter are in flight, does
        nothing and returns False. Also returns True if the engine does not hold the adapter.
        """
        return (
            await self._call_guard("DELETE", f"/{quote(version)}", None, LOAD_TIMEOUT_SECONDS, may_be_busy=True)
            is not None
        )

    async def complete(self, model: str, prompt: str | Sequence[int], max_tokens: int) -> GreedyAnswer:
        """Returns the greedy answer of `model`, an adapter version or the base model, with at most `max_tokens` tokens.

        `prompt` is a text or token ids. Raises InvalidArgument ("cannot_answer") if the engine rejects the request, or
        answers without a token or with a token without a finite log-probability, and NotFound ("not_loaded") if it does
        not hold the model.
        """
        body = {
            "model": model,
            "prompt": prompt if isinstance(prompt, str) else list(prompt),
            "max_tokens": max_tokens,
            "temperature": 0,
            # Set because the model's generation_config.json may say otherwise, which PEFT's greedy answers ignore.
            "top_p": 1.0,
            "top_k": -1,
            "repetition_penalty": 1.0,
            "logprobs": 1,
            "return_token_ids": True,
        }
        status, answer = await self._call("POST", "/v1/completions", body, COMPLETION_TIMEOUT_SECONDS)
        if status == 401:
            raise engine_unavailable("401: its VLLM_API_KEY differs from the lora-server's")
        if status == 404:
            raise NotFound(f"the engine does not hold {model}", code="not_loaded")
        if status != 200:
            # An engine that is dying answers 500, too.
            if status >= 500 and not await self.is_healthy():
                raise engine_unavailable(f"{status} to /v1/completions")
            raise InvalidArgument(f"{model} cannot answer: {error_message(answer)}", code="cannot_answer")
        with expecting_form("/v1/completions"):
            choice = answer["choices"][0]
            logprobs = (choice["logprobs"] or {}).get("token_logprobs") or ()
            return scored_answer(model, choice["token_ids"], choice["text"], logprobs, choice["finish_reason"])

    async def count_corrupted(self) -> int:
        """Returns the number of requests since the engine's start whose logits were NaN; 0 if vLLM does not count
        them.
        """
        lines = (line for line in (await self._metrics()).splitlines() if line.startswith(_CORRUPTED_METRIC))
        with expecting_form("/metrics"):
            return int(sum(float(line.rpartition(" ")[2]) for line in lines))

    async def _metrics(self) -> str:
        status, text = await self._call("GET", "/metrics", None, QUERY_TIMEOUT_SECONDS)
        if status != 200:
            raise engine_unavailable(f"{status} to /metrics")
        return str(text)

    async def _call_guard(
        self,
        method: str,
        path: str,
        body: Any,
        timeout_seconds: float,
        may_be_busy: bool = False,
        file: BinaryIO | None = None,
    ) -> Any:
        """Calls a route of the guard and returns its parsed answer. If `may_be_busy` is true, returns None if the guard
        rejects the call because requests are in flight. The request's body is the content of `file`, or else `body` as
        JSON.
        """
        status, answer = await self._call(method, GUARD_ROUTE + path, body, timeout_seconds, file)
        if status == 200:
            return answer
        if status == 409 and may_be_busy:
            return None
        if status == 409:
            raise ResourceExhausted(f"the engine has no slot: {error_message(answer)}", code="no_slot")
        if status == 422:
            raise InvalidArgument(f"the engine refused it: {error_message(answer)}", code="engine_refused")
        if status == 412:
            raise FailedPrecondition(error_message(answer), code="engine_store")
        if status == 424:
            raise no_folder(body["folder"])
        # Includes 403: the engine was restarted and has another secret.
        raise engine_unavailable(f"{status} to {method} {path or '/'}: {error_message(answer)}")

    async def _call(
        self, method: str, path: str, body: Any, timeout_seconds: float, file: BinaryIO | None = None
    ) -> tuple[int, Any]:
        """Sends a request with `body` as JSON, or with the content of `file`. Returns the HTTP status and the
        response's body, as parsed JSON or else as text.

        `timeout_seconds` bounds the whole call. Raises Unavailable if the call fails or is answered with a redirect,
        which is not followed.
        """
        headers = {SECRET_HEADER: self._secret()} if path.startswith("/pointsman/") else {}
        try:
            async with self._session.request(
                method,
                self._url + path,
                **({"json": body} if file is None else {"data": file}),
                headers=headers,
                timeout=aiohttp.ClientTimeout(timeout_seconds),
                allow_redirects=False,  # which would take the secret to another host
            ) as answer:
                if "location" in answer.headers:
                    where = answer.headers["location"][:200]
                    raise engine_unavailable(f"{answer.status} to {path}, a redirect to {where}, which is not followed")
                return answer.status, await _read(answer)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, RecursionError) as error:
            raise engine_unavailable(f"nothing to {path}: {error or type(error).__name__}") from error


async def _read(answer: aiohttp.ClientResponse) -> Any:
    """Returns the response's body, as parsed JSON or else as text. Raises ValueError if the body is compressed, longer
    than `MAX_ANSWER_BYTES`, or invalid JSON with the content type of JSON.
    """
    encoding = answer.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise ValueError(f"the answer has the content-encoding {encoding[:40]!r}, although none was accepted")
    body = bytearray()
    async for piece in answer.content.iter_any():
        body += piece
        if len(body) > MAX_ANSWER_BYTES:
            raise ValueError(f"the answer has more than {MAX_ANSWER_BYTES} bytes")
    text = body.decode("utf-8", "replace")
    return json.loads(text) if answer.content_type == "application/json" else text


@asynccontextmanager
async def open_client(
    url: str,
    secret: Callable[[], str],
    api_key: str = "",
    traced: bool = False,
    create: Callable[[aiohttp.ClientSession, str, Callable[[], str]], VllmClient] = VllmClient,
) -> AsyncIterator[VllmClient]:
    """Returns a context manager that yields a client of the engine at the base URL `url`, and closes it after the
    block.

    `secret` is a function that returns the guard's secret, and `api_key` is the value of the engine's VLLM_API_KEY
    (empty if it has none). `create` is called with the HTTP session, `url` and `secret`, and returns the client. If the
    engine is `traced`, the client asks it not to record spans of its requests, since no user's request causes them.
    """
    headers = {"accept-encoding": "identity"}
    if api_key:
        headers["authorization"] = f"Bearer {api_key}"
    if traced:
        headers["traceparent"] = f"00-{token_hex(16)}-{token_hex(8)}-00"  # W3C trace flags 00: not recorded
    async with aiohttp.ClientSession(headers=headers, auto_decompress=False) as session:
        yield create(session, url, secret)
