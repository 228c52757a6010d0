"""How soon a move of an alias is seen at every gateway, and what the first request on a new version waits."""

import asyncio
import json
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.adapters import adapters
from benchmarks.adapters.asking import ask
from benchmarks.adapters.configuration import WORD
from benchmarks.adapters.house import House, Plan, running
from benchmarks.adapters.verdicts import PROMISED
from benchmarks.gateway_load.http_client import Target, post
from benchmarks.gateway_load.machine import CannotMeasure

BETWEEN = 0.015
"""Seconds from one request to the next at each gateway, and so how finely a move is seen."""
BEFORE, AFTER = 0.06, 0.4
"""Seconds in which they are sent, before the move is called for and after it was answered."""
QUESTION = "Where is my train?"
REST = 2 * PROMISED
"""Seconds before each request for a first token: every gateway has heard of the move, and no request finds the engine
more awake than another."""
WARM = 3
"""Requests on a warm version for each first one on a new."""


@dataclass(frozen=True, slots=True)
class Extent:
    moves: int
    firsts: int


FULL = Extent(moves=30, firsts=18)
QUICK = Extent(moves=8, firsts=6)


@dataclass(frozen=True, slots=True)
class Seen:
    """Of one move, until the first request from which on the slower gateway's are all answered by the new version;
    milliseconds."""

    from_call: float
    """Since SetAlias was called, its own time included."""
    from_answer: float
    """Since it answered; below 0 where the gateways knew before the caller."""


@dataclass(frozen=True, slots=True)
class Promoted:
    seen: tuple[Seen, ...]
    first_ms: tuple[float, ...]
    """To the first token of the first request on a version that was loaded for it."""
    warm_ms: tuple[float, ...]

    @property
    def worst(self) -> float:
        return max(one.from_call for one in self.seen)

    @property
    def ratio(self) -> float:
        return median(self.first_ms) / median(self.warm_ms)


async def measure(folder: Path, extent: Extent) -> Promoted:
    """Raises CannotMeasure, and AioRpcError where a version cannot be registered or promoted."""
    sets = adapters.trained()
    async with running(folder, Plan(held=4, gateways=2, smoke=False, adapters=tuple(sets))) as house:
        versions = {
            name: [await house.register(name, adapter.folder) for adapter in members] for name, members in sets.items()
        }
        for name, known in versions.items():
            await house.promote(f"{name}@{WORD}", known[0])
        texts = {
            version: adapter.known.text
            for name, members in sets.items()
            for version, adapter in zip(versions[name], members, strict=True)
        }
        firsts, warm = await _first_tokens(house, versions, texts, extent.firsts)
        alias, pair = f"red@{WORD}", versions["red"][:2]
        for version in pair:
            await house.ensure(version)
        seen = [await _promote(house, alias, pair[number % 2], texts) for number in range(1, extent.moves + 1)]
        return Promoted(tuple(seen), tuple(firsts), tuple(warm))


async def _first_tokens(
    house: House, versions: dict[str, list[str]], texts: dict[str, str], count: int
) -> tuple[list[float], list[float]]:
    """Nine versions take turns in a host memory for four: each is loaded, promoted, asked once, and then asked again.

    No two questions begin alike, so that neither finds the other's prefix in the engine's cache.
    """
    firsts: list[float] = []
    warm: list[float] = []
    turns = [(name, place) for place in range(3) for name in versions]
    for number in range(count):
        name, place = turns[(number + len(versions)) % len(turns)]
        version = versions[name][place]
        await house.promote(f"{name}@{WORD}", version)
        for time_ in range(1 + WARM):
            await asyncio.sleep(REST)
            question = f"{number * 10 + time_} passengers ask for the platform of the train to Larkmoor."
            answer = await ask(house.gateways[0], f"{name}@{WORD}", question, most_tokens=8)
            if answer.error or answer.model != version or not texts[version].startswith(answer.text):
                raise CannotMeasure(f"{name}@{WORD}, which points to {version}, was answered by {answer}")
            (warm if time_ else firsts).append(1e3 * answer.first_seconds)
    return firsts, warm


async def _promote(house: House, alias: str, version: str, texts: dict[str, str]) -> Seen:
    """Of a version that is resident. Raises CannotMeasure where a gateway goes on with the former one."""
    enough = asyncio.Event()
    looking = asyncio.create_task(_look_steadily(house, alias, enough))
    await asyncio.sleep(BEFORE)
    called = time.monotonic()
    await house.promote(alias, version)
    answered = time.monotonic()
    await asyncio.sleep(AFTER)
    enough.set()
    seen = max(_seen(looks, version) for looks in await looking)
    for port in house.gateways:
        answer = await ask(port, alias, QUESTION, most_tokens=4)
        if answer.error or answer.model != version or not texts[version].startswith(answer.text):
            raise CannotMeasure(f"after its move to {version}, {alias} was answered by {answer}")
    return Seen(1e3 * (seen - called), 1e3 * (seen - answered))


async def _look_steadily(house: House, alias: str, enough: asyncio.Event) -> list[list[tuple[float, str]]]:
    """By gateway: when each request was sent, and what answered it; none waits for another's answer."""
    sent: list[list[asyncio.Task[tuple[float, str]]]] = [[] for _ in house.gateways]
    while not enough.is_set():
        for port, tasks in zip(house.gateways, sent, strict=True):
            tasks.append(asyncio.create_task(_look(port, alias)))
        await asyncio.sleep(BETWEEN)
    return [list(await asyncio.gather(*tasks)) for tasks in sent]


async def _look(port: int, alias: str) -> tuple[float, str]:
    """One token behind a prompt of one: the engine, which is not what is measured here, has next to nothing to do."""
    sent = time.monotonic()
    body = {"model": alias, "prompt": "A", "max_tokens": 1, "temperature": 0}
    answer = await post(Target(port, alias, path="/v1/completions"), body)
    if answer.status != 200:
        raise CannotMeasure(f"while its alias was moved, a request was answered {answer.status}: {answer.body[:200]!r}")
    return sent, str(json.loads(answer.body)["model"])


def _seen(looks: list[tuple[float, str]], version: str) -> float:
    """When the first request was sent from which on this gateway had all answered by `version`."""
    former = [number for number, (_, by) in enumerate(looks) if by != version]
    first = former[-1] + 1 if former else 0
    if first == len(looks):
        raise CannotMeasure(f"{AFTER:g} s after its alias was moved to {version} a gateway does not know it")
    return looks[first][0]
