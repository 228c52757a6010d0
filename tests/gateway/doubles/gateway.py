"""The real gateway with its HTTP and gRPC servers on free ports, connected to scripted services."""

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path as FilePath
from typing import Any

import httpx
from pointsman.v1 import gateway_pb2_grpc
from pointsman_embedding import EncoderConfig
from pointsman_gateway import bootstrap
from pointsman_gateway.bootstrap.models import EmbeddingModels
from pointsman_gateway.config.load import load_config
from pointsman_gateway.domain import PathEvidence
from pointsman_gateway.grpc.servicer import SERVICE, Authentication, GatewayServicer
from pointsman_gateway.http.app import build_app
from pointsman_gateway.http.dependencies import HttpDependencies
from pointsman_gateway.http.fast_reader import ChatReader
from pointsman_gateway.http.server import serve_http
from pointsman_gateway.settings import Settings
from pointsman_servicekit.buffer_budget import BufferedBytesBudget
from pointsman_servicekit.grpc_server import serving
from pointsman_servicekit.tracing.exporting import tracing_server_interceptors
from pointsman_servicekit.tracing.spans import Spans

from tests.gateway.doubles.config_folder import ConfigFolder
from tests.gateway.doubles.engine import ScriptedEngine
from tests.gateway.doubles.lora_server import READY, ScriptedLoraServer
from tests.gateway.doubles.retriever import ScriptedRetriever
from tests.gateway.doubles.waiting import until

TRIAGE, VOICE = "triage@3f9a1c0b77de", "voice@0123456789ab"
"""Adapter versions that the scripted engine holds."""


MEGABYTE = 1024 * 1024


@dataclass(frozen=True)
class Gateway:
    components: bootstrap.GatewayComponents
    url: str
    grpc_address: str
    folder: FilePath
    """The configuration folder."""

    def metric(self, name: str, **labels: str) -> float:
        """Returns the sum of all series of `name` with these labels."""
        return sum(
            sample.value
            for family in self.components.registry.collect()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def known(self, task: str, path: str) -> PathEvidence:
        """Returns the router's statistics of a path for a task."""
        config = load_config(self.folder)
        return self.components.persistence.evidence.of(task, bootstrap.to_path(path, config.paths.paths[path], config))


def shared_models(folder: FilePath, config: EncoderConfig | None) -> EmbeddingModels:
    """Loads the embedding models; all gateways of a test process share the built-in ones, which take half a second."""
    return EmbeddingModels.load(folder, config) if config else _built_in_models(folder)


@lru_cache(maxsize=1)
def _built_in_models(folder: FilePath) -> EmbeddingModels:
    return EmbeddingModels.load(folder)


def http_dependencies(
    components: bootstrap.GatewayComponents,
    request_timeout: float = 10,
    budget: BufferedBytesBudget | None = None,
    origins: tuple[str, ...] = (),
) -> HttpDependencies:
    return HttpDependencies(
        components.pipeline,
        components.tenancy,
        components.feedback,
        components.persistence.evaluations,
        components.reloader,
        components.registry,
        request_timeout,
        budget or BufferedBytesBudget(256 * MEGABYTE),
        components.console,
        cors_origins=origins,
        login=lambda: components.tenancy.single_sign_on,
        administration=components.administration,
    )


def open_http_client(gateway: Gateway) -> httpx.AsyncClient:
    # verify=False: nothing is encrypted here, and loading the certificates takes longer than most tests.
    return httpx.AsyncClient(base_url=gateway.url, timeout=10, verify=False)


@dataclass
class Neighbours:
    """The scripted services around a gateway, and the gateway's configuration."""

    engine: ScriptedEngine
    lora_server: ScriptedLoraServer
    retriever: ScriptedRetriever
    config: ConfigFolder
    settings: dict[str, Any]
    """Settings of the gateway that differ from the defaults."""

    async def ready(self) -> None:
        """Reports the engine as ready, with both adapters."""
        aliases = {"triage@prod": TRIAGE, "voice@prod": VOICE}
        await self.lora_server.say(READY, url=self.engine.url, resident=[TRIAGE, VOICE], aliases=aliases)

    @asynccontextmanager
    async def gateway(self, spans: Spans | None = None) -> AsyncIterator[Gateway]:
        """Runs a gateway, and yields it once it has received its engine's state; `spans` records traces."""
        self.config.models["engines"]["local"]["lora_server"] = self.lora_server.address
        given = {"wal_dir": self.config.folder.parent / "wal"} | self.settings  # used by this test only
        settings = Settings(config=self.config.write(), retriever=self.retriever.address, **given)
        config = load_config(settings.config)
        async with bootstrap.build_gateway(settings, config, spans, shared_models) as components:
            budget = BufferedBytesBudget(settings.buffer_megabytes * MEGABYTE)
            dependencies = http_dependencies(components, settings.request_timeout, budget, settings.origins)
            if settings.console == "off":
                dependencies = replace(dependencies, console=None)
            servicer = GatewayServicer(
                components.pipeline,
                components.feedback,
                settings.request_timeout,
                components.reloader,
            )

            def register(server: Any) -> None:
                gateway_pb2_grpc.add_GatewayServicer_to_server(servicer, server)

            async with (
                serving(
                    "127.0.0.1:0",
                    [SERVICE],
                    register,
                    grace=1,
                    interceptors=tracing_server_interceptors(spans),
                    gate=Authentication(components.pipeline, components.tenancy),
                    budget=budget,
                ) as grpc_server,
                serve_http(
                    build_app(dependencies, spans),
                    "127.0.0.1:0",
                    grace=1,
                    chat_reader=ChatReader(dependencies) if spans is None else None,
                ) as address,
            ):
                await until(lambda: components.engines.get("local").has_reported)
                yield Gateway(components, f"http://{address}", grpc_server.address, settings.config)


def counters(gateway: Gateway, families: Collection[str], suffixes: tuple[str, ...] = ("_total",)) -> dict[Any, float]:
    """Returns the values of the families' samples whose names end in one of `suffixes`, by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in gateway.components.registry.collect()
        if family.name in families
        for sample in family.samples
        if sample.name.endswith(suffixes)
    }


def increases(before: Mapping[Any, float], after: Mapping[Any, float], digits: int) -> dict[Any, float]:
    """Returns by how much the counters have grown, without those that have not. Rounds to `digits` decimals."""
    return {key: more for key, value in after.items() if (more := round(value - before.get(key, 0.0), digits))}
