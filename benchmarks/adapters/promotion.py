"""Measures how soon every gateway uses a promoted version, and the latency of the first request on a new version."""

import asyncio
import json
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.adapters import adapters
from benchmarks.adapters.services import ALIAS_SUFFIX, Services, ServicesPlan, run_services
from benchmarks.adapters.streaming_client import stream_answer
from benchmarks.adapters.verdicts import ALIAS_DELAY_SECONDS
from benchmarks.gateway_load.http_client import Target, post
from benchmarks.gateway_load.machine import CannotMeasure

REQUEST_INTERVAL_SECONDS = 0.015
"""Time between requests to each gateway, and so the resolution of the measurement."""
SECONDS_BEFORE, SECONDS_AFTER = 0.06, 0.4
"""How long requests are sent before the promotion is called, and after it has returned."""
QUESTION = "Where is my train?"
PAUSE_SECONDS = 2 * ALIAS_DELAY_SECONDS
"""Pause before each request whose first token is timed: all gateways have received the new alias, and the engine is
idle."""
WARM_REQUESTS = 3
"""Number of requests to a loaded version for each first request to a new one."""


@dataclass(frozen=True, slots=True)
class Extent:
    moves: int
    first_requests: int


FULL = Extent(moves=30, first_requests=18)
QUICK = Extent(moves=8, first_requests=6)


@dataclass(frozen=True, slots=True)
class PromotionDelay:
    """How long one promotion took, in milliseconds, until even the slower gateway sent all further requests to the new
    version.
    """

    from_call: float
    """Time since SetAlias was called, which includes the call itself."""
    from_answer: float
    """Time since SetAlias returned; negative if the gateways used the version before that."""


@dataclass(frozen=True, slots=True)
class PromotionResult:
    seen: tuple[PromotionDelay, ...]
    first_ms: tuple[float, ...]
    """Milliseconds to the first token of the first request on a version that was loaded for it."""
    warm_ms: tuple[float, ...]

    @property
    def worst(self) -> float:
        return max(one.from_call for one in self.seen)

    @property
    def ratio(self) -> float:
        return median(self.first_ms) / median(self.warm_ms)


async def measure(folder: Path, extent: Extent) -> PromotionResult:
    """Measures promotions and first requests. Raises CannotMeasure, and AioRpcError if a version cannot be registered
    or promoted.
    """
    sets = adapters.trained_adapters()
    async with run_services(folder, ServicesPlan(held=4, gateways=2, smoke=False, adapters=tuple(sets))) as services:
        versions = {
            name: [await services.register(name, adapter.folder) for adapter in members]
            for name, members in sets.items()
        }
        for name, known in versions.items():
            await services.promote(f"{name}@{ALIAS_SUFFIX}", known[0])
        texts = {
            version: adapter.known.text
            for name, members in sets.items()
            for version, adapter in zip(versions[name], members, strict=True)
        }
        first_requests, warm = await _first_tokens(services, versions, texts, extent.first_requests)
        alias, pair = f"red@{ALIAS_SUFFIX}", versions["red"][:2]
        for version in pair:
            await services.ensure(version)
        seen = [
            await _measure_promotion(services, alias, pair[number % 2], texts) for number in range(1, extent.moves + 1)
        ]
        return PromotionResult(tuple(seen), tuple(first_requests), tuple(warm))


async def _first_tokens(
    services: Services, versions: dict[str, list[str]], texts: dict[str, str], count: int
) -> tuple[list[float], list[float]]:
    """Returns two lists of milliseconds to the first token: of first requests to new versions, and of later requests to
    the same versions.

    Nine versions share host memory for four, so each is loaded for its promotion. All questions start differently, so
    that no request finds a prefix in the engine's cache.
    """
    first_requests: list[float] = []
    warm: list[float] = []
    turns = [(name, place) for place in range(3) for name in versions]
    for number in range(count):
        name, place = turns[(number + len(versions)) % len(turns)]
        version = versions[name][place]
        await services.promote(f"{name}@{ALIAS_SUFFIX}", version)
        for time_ in range(1 + WARM_REQUESTS):
            await asyncio.sleep(PAUSE_SECONDS)
            question = f"{number * 10 + time_} passengers ask for the platform of the train to Larkmoor."
            answer = await stream_answer(services.gateways[0], f"{name}@{ALIAS_SUFFIX}", question, max_tokens=8)
            if answer.error or answer.model != version or not texts[version].startswith(answer.text):
                raise CannotMeasure(f"{name}@{ALIAS_SUFFIX}, which history to {version}, was answered by {answer}")
            (warm if time_ else first_requests).append(1e3 * answer.first_seconds)
    return first_requests, warm


async def _measure_promotion(services: Services, alias: str, version: str, texts: dict[str, str]) -> PromotionDelay:
    """Promotes a loaded version. Raises CannotMeasure if a gateway still uses the previous version afterwards."""
    stop = asyncio.Event()
    polling = asyncio.create_task(_poll_alias(services, alias, stop))
    await asyncio.sleep(SECONDS_BEFORE)
    called = time.monotonic()
    await services.promote(alias, version)
    answered = time.monotonic()
    await asyncio.sleep(SECONDS_AFTER)
    stop.set()
    seen = max(_seen_at(responses, version) for responses in await polling)
    for port in services.gateways:
        answer = await stream_answer(port, alias, QUESTION, max_tokens=4)
        if answer.error or answer.model != version or not texts[version].startswith(answer.text):
            raise CannotMeasure(f"{alias} was changed to {version}, but the answer is {answer}")
    return PromotionDelay(1e3 * (seen - called), 1e3 * (seen - answered))


async def _poll_alias(services: Services, alias: str, stop: asyncio.Event) -> list[list[tuple[float, str]]]:
    """Sends requests to all gateways at a fixed interval. Returns for each gateway when each request was sent, and
    which version answered it.
    """
    sent: list[list[asyncio.Task[tuple[float, str]]]] = [[] for _ in services.gateways]
    while not stop.is_set():
        for port, tasks in zip(services.gateways, sent, strict=True):
            tasks.append(asyncio.create_task(_requested_version(port, alias)))
        await asyncio.sleep(REQUEST_INTERVAL_SECONDS)
    return [list(await asyncio.gather(*tasks)) for tasks in sent]


async def _requested_version(port: int, alias: str) -> tuple[float, str]:
    """Requests one token after a prompt of one token, because the engine's speed is not measured here. Returns the time
    of the request, and the version that answered.
    """
    sent = time.monotonic()
    body = {"model": alias, "prompt": "A", "max_tokens": 1, "temperature": 0}
    answer = await post(Target(port, alias, path="/v1/completions"), body)
    if answer.status != 200:
        raise CannotMeasure(f"a request during a promotion was answered {answer.status}: {answer.body[:200]!r}")
    return sent, str(json.loads(answer.body)["model"])


def _seen_at(responses: list[tuple[float, str]], version: str) -> float:
    """Returns when the first request was sent from which on `version` answered all requests of this gateway."""
    former = [number for number, (_, by) in enumerate(responses) if by != version]
    first = former[-1] + 1 if former else 0
    if first == len(responses):
        raise CannotMeasure(f"{SECONDS_AFTER:g} s after the promotion of {version} a gateway does not use it")
    return responses[first][0]
