"""A gateway with two engines of one model, each with its own scripted lora-server."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from pointsman.v1 import lora_server_pb2 as pb

from tests.gateway.doubles.engine import Script, ScriptedEngine, answer, running_engine
from tests.gateway.doubles.gateway import Gateway, Neighbours
from tests.gateway.doubles.lora_server import READY, ScriptedLoraServer, running_lora_server
from tests.gateway.doubles.waiting import until

OLD, NEW = "triage@3f9a1c0b77de", "triage@0123456789ab"
PROD = "triage@prod"


def alias(version: str, revision: int, canary: str = "", weight: float = 0.0, name: str = PROD) -> pb.Alias:
    return pb.Alias(alias=name, version=version, revision=revision, canary_version=canary, canary_weight=weight)


def answer_with_model_name() -> Script:
    """Returns a script whose answers are the name of the requested model, in two chunks."""
    return lambda body: answer(body["model"], ".")


@dataclass(frozen=True)
class Side:
    """One engine and its lora-server."""

    engine: ScriptedEngine
    lora_server: ScriptedLoraServer

    async def say(self, reported: pb.Alias, resident: Sequence[str] = (OLD, NEW), loadable: Sequence[str] = ()) -> None:
        await self.lora_server.say(
            READY, url=self.engine.url, resident=resident, loadable=loadable, aliases={reported.alias: reported}
        )

    @property
    def asked(self) -> list[str]:
        """The models that were requested from this engine, one per request."""
        return [body["model"] for body in self.engine.bodies]


@dataclass(frozen=True)
class EnginePair:
    gateway: Gateway
    sides: Mapping[str, Side]
    """The engines by name."""

    @property
    def version(self) -> str:
        """The version to which the alias points, according to the gateway."""
        found = self.gateway.components.engines.model_of(PROD)
        return (
            self.gateway.components.engines.version_of(self.gateway.components.reloader.current.paths[0])
            if found
            else ""
        )

    def holds(self, name: str) -> frozenset[str]:
        """The versions that the engine holds, according to the gateway."""
        return self.gateway.components.engines.get(name).resident


@asynccontextmanager
async def run_engine_pair(
    neighbours: Neighbours,
    resident: Mapping[str, Sequence[str]],
    loadable: Mapping[str, Sequence[str]] = {},
    reported: pb.Alias | None = None,
    settings: Mapping[str, Any] = {},
) -> AsyncIterator[EnginePair]:
    """Runs the engines `local` and `second`, with the versions `resident` and `loadable` by engine. The first path uses
    the adapter. Both engines are configured with `settings`.
    """
    async with running_engine() as engine, running_lora_server() as lora_server:
        sides = {"local": Side(neighbours.engine, neighbours.lora_server), "second": Side(engine, lora_server)}
        engines = neighbours.config.models["engines"]
        engines["local"].update(settings)
        engines["second"] = {"model": "tiny", "lora_server": lora_server.address, **settings}
        for name, side in sides.items():
            side.engine.script = answer_with_model_name()
            await side.say(reported or alias(OLD, 1), resident.get(name, ()), loadable.get(name, ()))
        async with neighbours.gateway() as gateway:
            await until(lambda: all(gateway.components.engines.get(name).ready for name in sides))
            yield EnginePair(gateway, sides)
