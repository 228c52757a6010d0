"""The part of vLLM's HTTP interface that the lora-server uses."""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from pointsman_servicekit.errors import InvalidArgument, Unavailable

LOADING = 60.0  # seconds; 20 to 60 ms is usual, but the engine may be busy
WARMING = 120.0  # seconds; the first answer of an adapter takes 1.6 s on an idle CPU
LOOKING = 5.0
WARM_TOKENS = 4


class VllmApi:
    """Raises Unavailable ("engine_unavailable") where the engine does not answer."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def is_healthy(self) -> bool:
        try:
            async with self._session.get(f"{self._url}/health", timeout=aiohttp.ClientTimeout(LOOKING)) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def models(self) -> frozenset[str]:
        """All names that may be asked for: the base model's, and those of the adapters."""
        status, body = await self._call("GET", "/v1/models", None, LOOKING)
        if status != 200:
            raise Unavailable(f"the engine answers {status} to /v1/models", code="engine_unavailable")
        return frozenset(str(model["id"]) for model in body["data"])

    async def load(self, version: str, folder: Path) -> None:
        """Raises InvalidArgument ("engine_refused") where the engine will not have it."""
        body = {"lora_name": version, "lora_path": str(folder)}
        status, answer = await self._call("POST", "/v1/load_lora_adapter", body, LOADING)
        if status != 200:
            raise InvalidArgument(f"the engine refused {version}: {_message(answer)}", code="engine_refused")

    async def unload(self, version: str) -> None:
        """Takes the name away; the weights stay in the engine's slot. An unknown name is no error."""
        await self._call("POST", "/v1/unload_lora_adapter", {"lora_name": version}, LOADING)

    async def warm(self, version: str) -> None:
        """One real answer, so that the first client does not wait for the slow first one.

        Raises InvalidArgument ("warm_up_failed") where the answer is none: such weights silence the whole engine.
        """
        body = {
            "model": version,
            "prompt": "Hello",
            "max_tokens": WARM_TOKENS,
            "ignore_eos": True,
            "temperature": 0,
            "logprobs": 1,
        }
        status, answer = await self._call("POST", "/v1/completions", body, WARMING)
        if status != 200:
            raise InvalidArgument(f"{version} cannot answer: {_message(answer)}", code="warm_up_failed")
        logprobs = answer["choices"][0]["logprobs"]["token_logprobs"]
        if len(logprobs) != WARM_TOKENS or not all(isinstance(p, float) and math.isfinite(p) for p in logprobs):
            raise InvalidArgument(f"{version} answers with no tokens that can be scored", code="warm_up_failed")

    async def _call(self, method: str, path: str, body: Any, seconds: float) -> tuple[int, Any]:
        """Status and body: JSON, or the text where it is none."""
        try:
            timeout = aiohttp.ClientTimeout(seconds)
            async with self._session.request(method, self._url + path, json=body, timeout=timeout) as answer:
                if answer.content_type == "application/json":
                    return answer.status, await answer.json()
                return answer.status, await answer.text()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise Unavailable(
                f"the engine does not answer {path}: {error or type(error).__name__}",
                code="engine_unavailable",
                retry_after=5.0,
            ) from error


@asynccontextmanager
async def opening(url: str) -> AsyncIterator[VllmApi]:
    async with aiohttp.ClientSession() as session:
        yield VllmApi(session, url)


def _message(answer: Any) -> str:
    """vLLM's own words, without the server's paths and without end."""
    if isinstance(answer, dict) and isinstance(answer.get("error"), dict):
        answer = answer["error"].get("message", "")
    return str(answer)[:300]
