"""The services that are fuzzed: those of `make target`, with an engine that answers each case by its own script."""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from pointsman_servicekit.keys.records import KeyScope, Limits

from tests.fuzz import dialects
from tests.fuzz.problems import Answer
from tests.fuzz.valid_bodies import BODIES
from tests.gateway.doubles.config_folder import PRICES, ConfigFolder
from tests.gateway.doubles.process_gateway import ProcessGateway
from tests.gateway.doubles.raw_engine import RawEngine, Step, running_raw_engine
from tests.gateway.doubles.tenancy import issue
from tests.lora_server.tiny_adapters import good_tensors, write_adapter
from tests.security.measuring import cpu_wait_seconds
from tests.security.target import GATEWAY, Services, prepare_model, running_services

ENGINE_KEY = "FUZZED_ENGINE_KEY"
"""The environment variable with the key of the scripted engine."""
DEADLINE_SECONDS = 3.0
"""The deadline of a request, unless its case has another one."""
MARGIN_SECONDS = 5.0
"""Seconds after the deadline in which an answer must end. Time in which the gateway waited for a processor is not
counted."""
ANSWER_SCHEMA = {"type": "object", "properties": {"intent": {"type": "string"}}}
WARM_UP_ROUNDS = 30
MARKER = re.compile(rb"case-\w+-\d+")


@dataclass(frozen=True)
class HttpCase:
    """An HTTP request, and possibly the engine's answer to it."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    key: str = "plain"
    """The name of the key that the request shows; empty: none."""
    marker: str = ""
    """A text in the request, by which the engine recognizes it."""
    steps: tuple[Step, ...] | Callable[[], Iterable[Step]] = ()
    """The steps of the engine's answer; empty: a well-formed answer."""


class Hung(Exception):
    """Raised if a request had no complete answer when its deadline and the margin had passed."""


@dataclass
class Rig:
    services: Services
    engine: RawEngine
    keys: Mapping[str, str]
    http: aiohttp.ClientSession
    scripts: dict[bytes, Iterable[Step]] = field(default_factory=dict)
    """The engine's answers, by marker."""

    @property
    def gateway(self) -> ProcessGateway:
        return self.services.gateway

    def answer(self, request: bytes) -> Iterable[Step]:
        found = MARKER.search(request)
        script = self.scripts.get(found[0]) if found else None
        return dialects.well_formed(request) if script is None else script

    async def ask(self, case: HttpCase) -> Answer:
        """Sends the case and returns the answer. Raises Hung."""
        if case.steps:
            self.scripts[case.marker.encode()] = case.steps() if callable(case.steps) else case.steps
        try:
            return await in_time(self.gateway.pid, self._send(case))
        finally:
            self.scripts.pop(case.marker.encode(), None)

    async def warm_up(self) -> None:
        """Sends valid bodies to each route so often that the gateway's memory is that of a gateway in use."""
        for _ in range(WARM_UP_ROUNDS):
            for path, bodies in BODIES.items():
                for body in bodies:
                    await self.ask(HttpCase("POST", path, body=json.dumps(body).encode(), key="admin"))
            for path in ("/metrics", "/openapi.json", "/admin/v1/keys", "/admin/v1/usage", "/v1/models"):
                await self.ask(HttpCase("GET", path, key="admin"))

    async def _send(self, case: HttpCase) -> Answer:
        headers = {"content-type": "application/json", "x-request-timeout": f"{DEADLINE_SECONDS:g}", **case.headers}
        if case.key:
            headers["authorization"] = f"Bearer {self.keys[case.key]}"
        async with self.http.request(case.method, case.path, data=case.body, headers=headers) as response:
            kind = response.headers.get("content-type", "")
            body, is_complete = b"", True
            try:
                async for piece in response.content.iter_any():
                    body += piece
            except aiohttp.ClientPayloadError:
                is_complete = False
            return Answer(response.status, kind, body, is_complete, kind.startswith("text/event-stream"))


Asked = TypeVar("Asked")


async def in_time(pid: int, asking: Coroutine[Any, Any, Asked]) -> Asked:
    """Awaits `asking` and returns its result. Raises Hung if that takes longer than the deadline and the margin."""
    task, waited = asyncio.ensure_future(asking), cpu_wait_seconds(pid)
    left = DEADLINE_SECONDS + MARGIN_SECONDS
    try:
        while left > 0.1:
            done, _ = await asyncio.wait({task}, timeout=left)
            if done:
                return task.result()
            before, waited = waited, cpu_wait_seconds(pid)
            left = waited - before
        raise Hung
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def configure(config: ConfigFolder, engine_url: str) -> None:
    """Adds models of each dialect, validators, guardrails and a cache; no circuit breaker ever opens."""
    prices = {"context_window": 4096, "usd_per_million_tokens": PRICES}
    config.models["models"] |= {"scripted": prices, "claude": prices}
    scripted = {"url": engine_url, "api_key_env": ENGINE_KEY}
    config.models["engines"] |= {
        "scripted": {"model": "scripted", **scripted},
        "claude": {"model": "claude", "provider": "anthropic", **scripted},
    }
    remote = {**scripted, "usd_per_million_tokens": 1.0}
    config.models["embeddings"] = {"minilm": {"local": True, "usd_per_million_tokens": 0}, "remote": remote}
    config.models["rerankers"] = {"reranker": remote}
    config.models["cache"] = {"usd_per_hit": 0.0000001}
    config.models["resilience"] = {"breaker": {"enabled": False}, "retries": {"max_retries": 0}}
    config.paths["scripted"] = {"model": "scripted", "max_tokens": 60, "temperature": 0}
    config.paths["cached"] = {"model": "scripted", "max_tokens": 60, "temperature": 0, "cache": {"exact": True}}
    config.tasks["triage"] |= {
        "policy": {"fixed": "scripted"},
        "fallback": [],
        "validators": [{"complete": True}, {"json_schema": ANSWER_SCHEMA}],
    }
    config.tasks["chat"] |= {"policy": {"fixed": "cached"}}
    config.rest_of_tasks["request_log"] = {"store_messages": True}
    config.rest_of_tasks["guardrails"] = [
        {"name": "secrets", "check": {"regex": {"API_KEY": r"\bsk-[A-Za-z0-9]{20,80}\b"}}, "action": "redact"}
    ]


SETTINGS = {
    "redaction": "pointsman_gateway.redaction:redact_common",
    "request_timeout": 30,
    "shutdown_delay": 0,
    "shutdown_timeout": 2,
}


@asynccontextmanager
async def running_rig(folder: Path, program: Sequence[str] = GATEWAY) -> AsyncIterator[Rig]:
    """Runs the services with all state below `folder`, and yields them. `program` are Python's arguments that run the
    gateway.
    """
    prepare_model()
    os.environ[ENGINE_KEY] = "engine-key"  # the gateway's process inherits it
    async with running_raw_engine() as engine:
        changes = lambda config: configure(config, engine.url)  # noqa: E731  # a callback
        lora_settings = {"SMOKE_TEST": "off"}
        async with (
            running_services(folder, SETTINGS, lora_settings, configure=changes, program=program) as services,
            aiohttp.ClientSession(
                services.gateway.url, connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout()
            ) as http,
        ):
            for name in ("triage", "voice"):
                adapter = write_adapter(folder / name, good_tensors(), config={"base_model_name_or_path": "tiny"})
                await services.lora_server.register(name, adapter, "prod")
                await services.lora_server.until_state(name, "serving")
            rig = Rig(services, engine, await _keys(services.valkey.url), http)
            engine.script = rig.answer
            yield rig


async def _keys(url: str) -> dict[str, str]:
    orders = {
        "plain": {},
        "admin": {"admin": True},
        "operator": {"operator": True},
        "scoped": {"scope": KeyScope(tasks=("chat",), paths=("cached",))},
        "limited": {"limits": Limits(requests_per_minute=30, tokens_per_minute=3000, dollars_per_day=0.01)},
    }
    issued = {name: await issue(url, tenant=f"fuzz-{name}", **order) for name, order in orders.items()}  # type: ignore[arg-type]
    return {name: key.credential.text for name, key in issued.items()} | {"wrong": "pm_wrong"}
