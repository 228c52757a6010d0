"""The metrics that the services export, from their own registries; and Prometheus's tools if they are installed."""

import asyncio
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from pointsman_embedding.prepare import prepare
from pointsman_gateway import bootstrap as gateway
from pointsman_gateway.config.load import load_config
from pointsman_gateway.settings import Settings as GatewaySettings
from pointsman_lora_server.domain import DesiredState, EngineState
from pointsman_lora_server.metrics import LoraServerMetrics as LoraMetrics
from pointsman_lora_server.metrics import VersionStateCollector
from pointsman_retriever.metrics import BoundedLabels, CollectionSizes
from pointsman_retriever.metrics import Metrics as RetrieverMetrics
from pointsman_servicekit.metrics import CallsInFlight
from prometheus_client import CollectorRegistry

from tests.gateway.doubles.config_folder import ConfigFolder
from tests.gateway.doubles.valkey import running_valkey

PROJECT = Path(__file__).parents[2]
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}

PATIENCE = 300
"""Time limit of one command."""

Exported = Mapping[str, frozenset[str]]
"""Label names by sample name."""


@pytest.fixture(scope="session")
def tool() -> Callable[..., str]:
    """Returns the first of these programs that is installed; skips the test if there is none."""

    def tool(*names: str) -> str:
        found = next(filter(None, map(shutil.which, names)), None)
        if found is None:
            pytest.skip(f"{names[0]} is not installed: make monitoring-tools")
        return found

    return tool


@pytest.fixture(scope="session")
def say(tool: Callable[..., str]) -> Callable[..., str]:
    """Runs a program, which must exit with `status`, and returns its output."""

    def say(program: str, *words: str, status: int = 0) -> str:
        command = [tool(program), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr if status else done.stdout

    return say


@pytest.fixture(scope="session")
def registries(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, CollectorRegistry]:
    """The registries of all three services, with all features configured."""
    gateway = asyncio.run(_gateway(tmp_path_factory.mktemp("gateway")))
    return {"gateway": gateway, "retriever": _retriever(), "lora-server": _lora_server()}


@pytest.fixture(scope="session")
def exported(registries: Mapping[str, CollectorRegistry]) -> Exported:
    samples: dict[str, frozenset[str]] = {}
    for registry in registries.values():
        samples |= _samples(registry)
    return samples


async def _gateway(folder: Path) -> CollectorRegistry:
    """A gateway with a request log, keys and a cache, all of which need Redis."""
    model = PROJECT / ".pointsman" / "models" / "minilm"
    prepare(model)
    async with running_valkey(folder / "valkey") as valkey:
        settings = GatewaySettings(
            config=ConfigFolder(folder / "config").write(),
            embedding_model=model,
            redis_url=valkey.url,
            auth="on",
            wal_dir=folder / "wal",
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
    metrics = LoraMetrics("a-model")
    VersionStateCollector(DesiredState, EngineState, lambda: 1, 1, metrics.registry)
    CallsInFlight(metrics.registry)
    return metrics.registry


def _samples(registry: CollectorRegistry) -> dict[str, frozenset[str]]:
    samples: dict[str, frozenset[str]] = {}
    # The label names of a metric without values are not part of the public interface.
    for collector in registry._collector_to_names:
        for family in collector.collect():
            named = getattr(family, "_labelnames", ()) or getattr(collector, "_labelnames", ())
            for suffix in SUFFIXES.get(family.type, ()):
                edge = {"le"} if suffix == "_bucket" else set()
                samples[family.name + suffix] = frozenset(named) | edge
    return samples
