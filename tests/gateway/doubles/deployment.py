"""The real gateway and the services it uses as processes, each of which can be stopped under load."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from pointsman_embedding.prepare import prepare

from tests.gateway.doubles.config_folder import ConfigFolder
from tests.gateway.doubles.process_engine import ProcessEngine, process_engine
from tests.gateway.doubles.process_gateway import ProcessGateway, process_gateway
from tests.gateway.doubles.process_lora_server import ProcessLoraServer, process_lora_server
from tests.gateway.doubles.process_retriever import ProcessRetriever, process_retriever
from tests.gateway.doubles.valkey import Valkey, running_valkey

MODEL = Path(__file__).parents[3] / ".pointsman" / "models" / "minilm"

RESILIENCE = {
    "timeouts": {"connect_seconds": 1, "first_token_seconds": 1, "stream_idle_seconds": 1},
    "breaker": {"open_duration_seconds": 1, "max_open_duration_seconds": 2},
}
"""Shorter timeouts than the defaults, so that outages are short."""


@dataclass
class Deployment:
    """The processes around one gateway."""

    folder: Path
    gateway: ProcessGateway
    engines: dict[str, ProcessEngine]
    retriever: ProcessRetriever
    valkey: Valkey
    lora_server: ProcessLoraServer


@asynccontextmanager
async def run_deployment(folder: Path, **settings: object) -> AsyncIterator[Deployment]:
    """Runs a gateway with the engines `a` and `b`, which give equal answers, and `adapted`, which holds an adapter
    according to its lora-server.
    """
    prepare(MODEL)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        engines = {name: await enter(process_engine(folder, name)) for name in ("a", "b", "adapted")}
        lora_server = await enter(process_lora_server(folder, engines["adapted"].url))
        retriever = await enter(process_retriever(folder, MODEL))
        valkey = await enter(running_valkey(folder / "valkey"))
        settings |= {
            "config": _config(folder, engines, lora_server).write(),
            "embedding_model": MODEL,
            "retriever": retriever.address,
            "redis_url": valkey.url,
            "wal_dir": folder / "wal",
        }
        gateway = await enter(process_gateway(folder, **settings))
        yield Deployment(folder, gateway, engines, retriever, valkey, lora_server)


def _config(folder: Path, engines: dict[str, ProcessEngine], lora_server: ProcessLoraServer) -> ConfigFolder:
    config = ConfigFolder(folder / "config")
    config.models["resilience"] = RESILIENCE
    config.models["models"]["small"] = config.models["models"]["tiny"]
    config.models["engines"] = {
        "a": {"model": "small", "url": engines["a"].url},
        "b": {"model": "small", "url": engines["b"].url},
        "adapted": {"model": "tiny", "lora_server": lora_server.address},
    }
    for path in config.paths.values():
        path["model"] = "tiny" if path.get("adapter") else "small"
    return config
