"""The part of the engine's HTTP interface that the lora-server uses: vLLM's answers, and the guard's adapters."""

import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.parse import quote

import aiohttp
from pointsman_servicekit.errors import InvalidArgument, NotFound, ResourceExhausted, Unavailable

from pointsman_lora_server.engine.secret import HEADER

LOADING = 60.0  # seconds; 20 to 60 ms is usual, but the engine may be busy
ANSWERING = 120.0  # seconds; the first answer of an adapter takes 1.6 s on an idle CPU, and a busy one lets it wait
LOOKING = 5.0
CORRUPTED = "vllm:corrupted_requests_total{"


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """An adapter whose weights the engine holds."""

    in_flight: int
    """Requests that are being answered with it."""
    requests: int
    """All that were begun with it in this life of the engine."""
    idle_seconds: float
    """Since the last of them began or ended, or since it was loaded."""
    open: bool
    """Whether its name may be asked for."""


@dataclass(frozen=True, slots=True)
class GreedyAnswer:
    """An answer at temperature 0, token by token."""

    token_ids: tuple[int, ...]
    """The end-of-sequence token among them, where that ended it."""
    text: str
    logprobs: tuple[float, ...]
    """Of each token; all finite."""
    finish_reason: str
    """"stop" or "length"."""


class VllmClient:
    """Raises Unavailable ("engine_unavailable") where the engine does not answer."""

    def __init__(self, session: aiohttp.ClientSession, url: str, secret: Callable[[], str]) -> None:
        """`secret` gives that of the engine's life now."""
        self._session = session
        self._url = url
        self._secret = secret

    async def is_healthy(self) -> bool:
        try:
            async with self._session.get(f"{self._url}/health", timeout=aiohttp.ClientTimeout(LOOKING)) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def adapters(self) -> Mapping[str, LoadedAdapter]:
        """All whose weights the engine holds, by version."""
        answer = await self._guarded("GET", "", None, LOOKING)
        return {name: LoadedAdapter(**loaded) for name, loaded in answer["adapters"].items()}

    async def in_flight(self) -> int:
        """Requests that are being answered, the base model's among them, until their last byte is handed on."""
        answer = await self._guarded("GET", "", None, LOOKING)
        return int(answer["base"]["in_flight"]) + sum(int(each["in_flight"]) for each in answer["adapters"].values())

    async def load(self, version: str, folder: Path) -> None:
        """`folder` is absolute. A version that is there already is no error; one that was closed is opened again.

        Raises InvalidArgument ("engine_refused") where the engine will not have it, ResourceExhausted ("no_slot").
        """
        await self._guarded("PUT", f"/{quote(version)}", {"folder": str(folder)}, LOADING)

    async def close(self, version: str) -> int:
        """Takes the name away: new requests get 404. Returns how many are in flight; an unknown name has none."""
        answer = await self._guarded("POST", f"/{quote(version)}/close", None, LOOKING)
        return int(answer["in_flight"])

    async def remove(self, version: str) -> bool:
        """Frees the slot; False, and nothing done, while a request is in flight."""
        return await self._guarded("DELETE", f"/{quote(version)}", None, LOADING, refusable=True) is not None

    async def complete(self, model: str, prompt: str | Sequence[int], tokens: int) -> GreedyAnswer:
        """The greedy answer, `tokens` long at most.

        Raises InvalidArgument ("cannot_answer") where there is no token, or one that cannot be scored, and NotFound
        ("not_loaded").
        """
        body = {
            "model": model,
            "prompt": prompt if isinstance(prompt, str) else list(prompt),
            "max_tokens": tokens,
            "temperature": 0,
            # Else the model's generation_config.json may say otherwise, which PEFT's greedy answers do not follow.
            "top_p": 1.0,
            "top_k": -1,
            "repetition_penalty": 1.0,
            "logprobs": 1,
            "return_token_ids": True,
        }
        status, answer = await self._call("POST", "/v1/completions", body, ANSWERING)
        if status == 401:
            raise _unavailable("401: its VLLM_API_KEY is not ours")
        if status == 404:
            raise NotFound(f"the engine does not hold {model}", code="not_loaded")
        if status != 200:
            # An engine that dies answers 500, too.
            if status >= 500 and not await self.is_healthy():
                raise _unavailable(f"{status} to /v1/completions")
            raise InvalidArgument(f"{model} cannot answer: {_message(answer)}", code="cannot_answer")
        choice = answer["choices"][0]
        logprobs = tuple((choice["logprobs"] or {}).get("token_logprobs") or ())
        if not logprobs or not all(isinstance(p, int | float) and math.isfinite(p) for p in logprobs):
            raise InvalidArgument(f"{model} answers with no tokens that can be scored", code="cannot_answer")
        return GreedyAnswer(tuple(choice["token_ids"]), choice["text"], logprobs, choice["finish_reason"])

    async def corrupted(self) -> int:
        """How many requests of this life were answered from logits that are no numbers; 0 where vLLM does not count."""
        status, text = await self._call("GET", "/metrics", None, LOOKING)
        if status != 200:
            raise _unavailable(f"{status} to /metrics")
        lines = (line for line in str(text).splitlines() if line.startswith(CORRUPTED))
        return int(sum(float(line.rpartition(" ")[2]) for line in lines))

    async def _guarded(self, method: str, path: str, body: Any, seconds: float, refusable: bool = False) -> Any:
        """What the guard answers; None where it refuses for requests in flight."""
        status, answer = await self._call(method, f"/pointsman/v1/adapters{path}", body, seconds)
        if status == 200:
            return answer
        if status == 409 and refusable:
            return None
        if status == 409:
            raise ResourceExhausted(f"the engine has no slot: {_message(answer)}", code="no_slot")
        if status == 422:
            raise InvalidArgument(f"the engine refused it: {_message(answer)}", code="engine_refused")
        # 403 among them: another life of the engine than the one whose secret we hold.
        raise _unavailable(f"{status} to {method} {path or '/'}: {_message(answer)}")

    async def _call(self, method: str, path: str, body: Any, seconds: float) -> tuple[int, Any]:
        """Status and body: JSON, or the text where it is none."""
        headers = {HEADER: self._secret()} if path.startswith("/pointsman/") else {}
        try:
            timeout = aiohttp.ClientTimeout(seconds)
            async with self._session.request(
                method, self._url + path, json=body, headers=headers, timeout=timeout
            ) as answer:
                if answer.content_type == "application/json":
                    return answer.status, await answer.json()
                return answer.status, await answer.text()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise _unavailable(f"nothing to {path}: {error or type(error).__name__}") from error


@asynccontextmanager
async def opening(
    url: str, secret: Callable[[], str], api_key: str = "", traced: bool = False
) -> AsyncIterator[VllmClient]:
    """`api_key` is what VLLM_API_KEY in the engine's environment says, where it is set.

    `traced`: the engine makes spans; of probes and warming it is asked to make none, since no request caused them.
    """
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    if traced:
        headers["traceparent"] = f"00-{token_hex(16)}-{token_hex(8)}-00"  # W3C's flag 00: not recorded
    async with aiohttp.ClientSession(headers=headers) as session:
        yield VllmClient(session, url, secret)


def _unavailable(what: str) -> Unavailable:
    return Unavailable(f"the engine answers {what}", code="engine_unavailable", retry_after=5.0)


def _message(answer: Any) -> str:
    """The engine's own words, without end."""
    if isinstance(answer, dict) and isinstance(answer.get("error"), dict):
        answer = answer["error"].get("message", "")
    return str(answer)[:300]
