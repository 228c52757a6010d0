"""A gateway process with keys on, between a Valkey and an engine that the test scripts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from pointsman_servicekit.keys.records import NO_LIMITS, Limits

from tests.gateway.doubles.config_folder import ConfigFolder
from tests.gateway.doubles.gateway import TRIAGE, VOICE
from tests.gateway.doubles.lora_server import READY, ScriptedLoraServer, running_lora_server
from tests.gateway.doubles.process_gateway import ProcessGateway, process_gateway
from tests.gateway.doubles.tenancy import issue
from tests.gateway.doubles.valkey import running_valkey
from tests.security.target import MODEL

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello, how are you today?"}]


@dataclass(frozen=True)
class KeyedGateway:
    process: ProcessGateway
    redis_url: str
    lora_server: ScriptedLoraServer
    http: httpx.AsyncClient

    async def key(self, tenant: str, limits: Limits = NO_LIMITS, **order: Any) -> dict[str, str]:
        """A new key of the tenant, as a header."""
        issued = await issue(self.redis_url, limits, tenant=tenant, **order)
        return {"authorization": f"Bearer {issued.credential.text}"}

    async def chat(self, key: dict[str, str], **fields: Any) -> httpx.Response:
        return await self.http.post(CHAT, json={"model": "tiny", "messages": HELLO, **fields}, headers=key)


@asynccontextmanager
async def keyed_gateway(
    folder: Path, engine_url: str, engine: dict[str, Any] | None = None, **settings: object
) -> AsyncIterator[KeyedGateway]:
    """Runs the gateway. `engine` are further settings of the engine in models.yaml."""
    async with running_valkey(folder / "valkey") as valkey, running_lora_server() as lora_server:
        aliases = {"triage@prod": TRIAGE, "voice@prod": VOICE}
        await lora_server.say(READY, url=engine_url, resident=[TRIAGE, VOICE], aliases=aliases)
        config = ConfigFolder(folder / "config")
        config.models["engines"]["local"] |= {"lora_server": lora_server.address, **(engine or {})}
        config.models["embeddings"] = {"minilm": {"local": True, "usd_per_million_tokens": 0}}
        config.models["rerankers"] = {"reranker": {"url": "http://127.0.0.1:9"}}
        given = {"embedding_model": MODEL, "redis_url": valkey.url, "wal_dir": folder / "wal", "auth": "on"}
        async with (
            process_gateway(folder, config=config.write(), **given, **settings) as process,
            httpx.AsyncClient(base_url=process.url, timeout=30, verify=False) as http,
        ):
            yield KeyedGateway(process, valkey.url, lora_server, http)
