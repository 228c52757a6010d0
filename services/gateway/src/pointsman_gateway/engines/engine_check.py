"""Checks one engine with real requests: its list of models, its adapters, a streamed answer of one token, and its
API key.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

from pointsman_servicekit.errors import PointsmanError

from pointsman_gateway.config.engine_config import Timeouts
from pointsman_gateway.domain import Chunks, Message, Sampling, Usage
from pointsman_gateway.engines.adapter_discovery import ListedModel, NotListed, find_adapters, list_models
from pointsman_gateway.engines.connection_pool import Pool
from pointsman_gateway.engines.engine_client import EngineRequest
from pointsman_gateway.engines.engine_state import Engine
from pointsman_gateway.engines.http_engine_client import HttpEngineClient
from pointsman_gateway.engines.http_post import PooledPoster

ANSWER_SECONDS = 60.0
MAX_SHOWN_NAMES = 10

NO_GUARANTEES = (
    "the same name may come to mean other weights, and there are no checks, aliases, canaries, loads on demand, or "
    "swaps without a wrong token; a lora-server provides these (docs/own-vllm.md)"
)
"""The warning about adapters that no lora-server manages."""


@dataclass(frozen=True, slots=True)
class EngineFinding:
    level: str
    """The severity: "ok", "warn" or "fail"."""
    what: str
    detail: str


async def check_engine(
    engine: Engine, timeouts: Timeouts, *, discovers: bool, adapters: Collection[str]
) -> AsyncIterator[EngineFinding]:
    """Checks an engine with real requests, and yields the findings one by one; a failed check is a finding, not an
    error.

    `discovers` says whether the engine is configured with `adapters: discover`. Such an engine must list its models,
    and the list must contain `adapters`, the names of the adapters that the configured paths need.
    """
    pool = Pool()
    http = PooledPoster(pool, str)
    try:
        listed: Sequence[ListedModel] | None = None
        try:
            listed = await list_models(http, engine.url, engine.api)
            yield _model_finding(engine, listed)
        except NotListed as error:
            yield EngineFinding("fail" if discovers else "warn", "models", str(error))
        if listed is not None and engine.api.auth_header:
            yield await _auth_finding(http, engine)
        names = [engine.upstream_model]
        if discovers and listed is not None:
            try:
                found = find_adapters(listed, engine.upstream_model, by_root=engine.api.lists_adapters_by_root)
            except NotListed as error:
                yield EngineFinding("fail", "adapters", str(error))
            else:
                for name, reason in found.unusable.items():
                    yield EngineFinding("warn", "adapters", f"{name!r} is ignored: {reason}")
                missing = sorted(name for name in adapters if name not in found.usable)
                if missing:
                    yield EngineFinding(
                        "fail", "adapters", f"a path needs '{missing[0]}'; it lists {_some(found.usable)}"
                    )
                else:
                    yield EngineFinding("ok", "adapters", f"it lists {_some(found.usable)}")
                yield EngineFinding("warn", "guarantees", NO_GUARANTEES)
                needed = sorted(name for name in adapters if name in found.usable) or sorted(found.usable)[:1]
                names += [engine.api.name_of_adapter(name, engine.upstream_model) for name in needed]
        names += [engine.api.name_of_adapter(name, engine.upstream_model) for name in sorted(engine.resident)]
        for name in names:
            for finding in await _answer_findings(pool, engine, name, timeouts):
                yield finding
    finally:
        pool.close()


def _model_finding(engine: Engine, listed: Sequence[ListedModel]) -> EngineFinding:
    names = {model.id for model in listed}
    if engine.upstream_model in names:
        return EngineFinding("ok", "models", f"it lists '{engine.upstream_model}' among {len(names)}")
    return EngineFinding("warn", "models", f"it does not list '{engine.upstream_model}'; it lists {_some(names)}")


async def _auth_finding(http: PooledPoster, engine: Engine) -> EngineFinding:
    """Checks that the engine rejects requests without the key."""
    try:
        await list_models(http, engine.url, replace(engine.api, auth_header=""))
    except NotListed as error:
        if error.outcome == "rejected":
            return EngineFinding("ok", "key", "it is accepted, and requests without it are rejected")
        return EngineFinding("warn", "key", f"unknown: {error}")
    return EngineFinding("warn", "key", "it lists its models without a key too; whoever reaches it may use it")


class _Answer:
    """Waits for the end of one answer; implements `ChunkSink`."""

    def __init__(self) -> None:
        self.started, self.first = perf_counter(), 0.0
        self.usage: Usage | None = None
        self.end: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def chunks(self, chunks: Chunks, last: bool) -> None:
        self.first = self.first or perf_counter() - self.started
        for chunk in chunks:
            self.usage = chunk.usage or self.usage

    def ended(self, error: Exception | None) -> None:
        if not self.end.done():
            self.end.set_result(error)


async def _answer_findings(pool: Pool, engine: Engine, model: str, timeouts: Timeouts) -> list[EngineFinding]:
    """Requests one streamed token from a model; returns the findings on the answer and on the usage that it reports."""
    answer, client = _Answer(), HttpEngineClient(pool)
    request = EngineRequest(
        engine.name, engine.url, model, (Message("user", "Hello"),), Sampling(max_tokens=1),
        asyncio.get_running_loop().time() + ANSWER_SECONDS, engine.api, timeouts,
    )  # fmt: skip
    transfer = client.send(request, answer)
    error = await answer.end
    transfer.close()
    what = f"chat with {model}"
    if error is not None:
        detail = error.message if isinstance(error, PointsmanError) else f"{type(error).__name__}: {error}"
        return [EngineFinding("fail", what, detail)]
    found = [EngineFinding("ok", what, f"streams; the first token came after {answer.first:.2f} s")]
    if answer.usage is None:
        found.append(EngineFinding("fail", "usage", "the stream states none, so tokens would be estimated"))
    else:
        usage = answer.usage
        found.append(
            EngineFinding("ok", "usage", f"{usage.prompt_tokens} prompt, {usage.completion_tokens} completion")
        )
    return found


def _some(names: Collection[str]) -> str:
    shown = ", ".join(f"'{name[:200]}'" for name in sorted(names)[:MAX_SHOWN_NAMES]) or "none"
    return f"{shown} and {len(names) - MAX_SHOWN_NAMES} more" if len(names) > MAX_SHOWN_NAMES else shown
