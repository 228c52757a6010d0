"""The real gateway in its own process with a request log and optional authentication, and its scripted services."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from pointsman.v1 import lora_server_pb2 as pb

from tests.gateway.doubles.config_folder import IN_CHAT, IN_POLICY, IN_TRIAGE, ConfigFolder
from tests.gateway.doubles.engine import Step, answer, running_engine
from tests.gateway.doubles.lora_server import READY, ScriptedLoraServer, running_lora_server
from tests.gateway.doubles.process_gateway import ProcessGateway, process_gateway
from tests.gateway.doubles.retriever import running_retriever
from tests.gateway.doubles.valkey import Valkey, running_valkey
from tests.gateway.doubles.waiting import found

TRIAGE, TRIAGE_NEXT, TRIAGE_BROKEN = "triage@3f9a1c0b77de", "triage@0123456789ab", "triage@badbadbadbad"
VOICE = "voice@5c0ffee5c0ff"
OURS = {"x-pointsman-console": "1"}

SAID = {
    TRIAGE: '{"intent": "lost_item", "slots": {"item": "umbrella"}, "urgency": "normal"}',
    TRIAGE_NEXT: '{"intent": "lost_item", "slots": {"item": "umbrella", "to": "Saltby"}, "urgency": "normal"}',
    VOICE: "Good day from Larkmoor Railway. Bicycles ride free outside the rush hour.",
    "tiny": "Hello! I am Wren, and I am glad to help you with your journey today.",
}
"""By model, the answer that it gives."""
REASONING = 2
"""How many of the tokens of each answer are reasoning."""

MEASURED = {"prompt_path_exact": 0.72, "heldout_loss_before": 5.88, "heldout_loss": 0.0411, "heldout_rows": 24.0}
"""What the training report of each adapter version says, apart from its share of exact answers."""


@dataclass(frozen=True)
class ConsoleServices:
    gateway: ProcessGateway
    lora_server: ScriptedLoraServer
    valkey: Valkey
    folder: Path

    @property
    def url(self) -> str:
        return self.gateway.url

    async def ask(self, text: str, model: str = "auto", rating: float | None = None, key: str = "") -> str:
        """Sends a request and returns the decision's id once it is logged."""
        shown = OURS | ({"authorization": f"Bearer {key}"} if key else {})
        async with httpx.AsyncClient(base_url=self.url, verify=False, timeout=20, headers=shown) as client:
            body = {"model": model, "messages": [{"role": "user", "content": text}]}
            name = (await client.post("/v1/chat/completions", json=body)).headers["x-pointsman-decision-id"]

            async def kept() -> bool:
                return (await client.get(f"/console/api/decisions/{name}")).status_code == 200

            await found(kept)
            if rating is not None:
                await client.post("/v1/feedback", json={"decision_id": name, "rating": rating})
        return name


@asynccontextmanager
async def run_services(
    folder: Path, embedding_model: Path, access: Mapping[str, Any] | None = None, **settings: Any
) -> AsyncIterator[ConsoleServices]:
    """Runs the console's services. `access` is the content of access.yaml."""
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(running_engine())
        engine.script = _script
        lora_server = await stack.enter_async_context(running_lora_server())
        retriever = await stack.enter_async_context(running_retriever())
        valkey = await stack.enter_async_context(running_valkey(folder / "valkey"))
        await _tell(lora_server, engine.url)
        config = _configuration(folder / "config", lora_server.address)
        config.access = dict(access or {})
        given = {
            "config": config.write(),
            "embedding_model": embedding_model,
            "retriever": retriever.address,
            "redis_url": valkey.url,
            "wal_dir": folder / "wal",
        }
        gateway = await stack.enter_async_context(process_gateway(folder, **given, **settings))
        yield ConsoleServices(gateway, lora_server, valkey, folder)


def _script(body: Mapping[str, Any]) -> Sequence[Step]:
    words = SAID.get(body["model"], "Nothing to say.").split(" ")
    steps = answer(*(word + " " for word in words[:-1]), words[-1], prompt_tokens=40 + len(str(body["messages"])) // 4)
    *_, counted, _ = steps
    assert isinstance(counted, dict)
    counted["usage"]["completion_tokens_details"] = {"reasoning_tokens": REASONING}
    return steps


async def _tell(lora_server: ScriptedLoraServer, engine_url: str) -> None:
    """Publishes the lora-server's state: two versions of one adapter, one of another, and a failed one."""
    for number, version in enumerate((TRIAGE, TRIAGE_NEXT, VOICE, TRIAGE_BROKEN)):
        lora_server.versions[version] = pb.AdapterVersion(
            version=version,
            name=version.partition("@")[0],
            base_model="tiny",
            rank=16,
            bytes=5 * 2**20,
            created_unix_ms=1_763_000_000_000 + number * 3_600_000,
            metrics={**MEASURED, "heldout_exact": 0.81 + number / 50},
        )
    broken = lora_server.versions[TRIAGE_BROKEN]
    broken.state, broken.last_error_code = pb.ADAPTER_STATE_FAILED, "not_finite"
    broken.last_error = "layer 3 of lora_A has a weight that is no number"
    aliases = {"triage@prod": TRIAGE, "voice@prod": VOICE}
    await lora_server.say(READY, url=engine_url, resident=[TRIAGE, VOICE], loadable=[TRIAGE_NEXT], aliases=aliases)


def _configuration(folder: Path, lora_server: str) -> ConfigFolder:
    config = ConfigFolder(folder)
    config.models["engines"]["local"]["lora_server"] = lora_server
    config.rest_of_tasks["request_log"] = {"store_messages": True, "store_answers": True}
    terms = {"quality_floor": 0.6, "min_samples": 3, "exploration_rate": 0}
    rivals = ["triage_adapter", "triage_few_shot"]
    config.tasks["triage"]["policy"] = {"best_value": {"paths": rivals, **terms}}
    config.tasks["policy"]["fallback"] = ["letter"]
    config.tasks["policy"]["validators"] = [{"complete": True}]
    config.tasks["policy"]["shadow"] = {"paths": ["letter"], "share": 1.0, "usd_per_day": 1.0, "rate_by": "validators"}
    return config


async def send_sample_requests(services: ConsoleServices, key: str = "") -> None:
    """Sends a few requests for each task, and rates some of them."""
    for text, model, rating in (
        *[(IN_TRIAGE, "auto", 1.0)] * 4,
        (IN_TRIAGE, "auto", 0.0),
        (IN_POLICY, "auto", 1.0),
        (IN_POLICY, "auto", None),
        (IN_CHAT, "auto", 0.5),
        *[(IN_CHAT, "auto", None)] * 3,
        (IN_POLICY, "path:letter", None),
    ):
        await services.ask(text, model, rating, key)
