"""Fixtures: the gateway with scripted engines and services, and the real embedding model."""

import sys
import types
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pointsman_embedding import StaticModel

from tests.gateway.doubles.api_clients import API_CLIENTS, ApiClient, open_api_client
from tests.gateway.doubles.config_folder import ConfigFolder
from tests.gateway.doubles.engine import ScriptedEngine, running_engine
from tests.gateway.doubles.gateway import Gateway, Neighbours, open_http_client
from tests.gateway.doubles.lora_server import ScriptedLoraServer, running_lora_server
from tests.gateway.doubles.request_logs import RequestLogHarness, run_request_log
from tests.gateway.doubles.retriever import ScriptedRetriever, running_retriever
from tests.gateway.doubles.valkey import Valkey, running_valkey


@pytest.fixture(scope="session")
def static_model(model_folder: Path) -> StaticModel:
    return StaticModel.load(model_folder)


@pytest.fixture
def config_folder(tmp_path: Path) -> ConfigFolder:
    return ConfigFolder(tmp_path / "config")


@pytest.fixture
async def engine() -> AsyncIterator[ScriptedEngine]:
    async with running_engine() as engine:
        yield engine


@pytest.fixture
async def second_engine() -> AsyncIterator[ScriptedEngine]:
    async with running_engine() as engine:
        yield engine


@pytest.fixture
async def lora_server() -> AsyncIterator[ScriptedLoraServer]:
    async with running_lora_server() as lora_server:
        yield lora_server


@pytest.fixture
async def retriever() -> AsyncIterator[ScriptedRetriever]:
    async with running_retriever() as retriever:
        yield retriever


@pytest.fixture
async def valkey(tmp_path: Path) -> AsyncIterator[Valkey]:
    async with running_valkey(tmp_path / "valkey") as valkey:
        yield valkey


@pytest.fixture
async def harness(valkey: Valkey) -> AsyncIterator[RequestLogHarness]:
    async with run_request_log(valkey.url) as harness:
        yield harness


@pytest.fixture
def neighbours(
    engine: ScriptedEngine,
    lora_server: ScriptedLoraServer,
    retriever: ScriptedRetriever,
    config_folder: ConfigFolder,
    model_folder: Path,
) -> Neighbours:
    return Neighbours(engine, lora_server, retriever, config_folder, {"embedding_model": model_folder})


@pytest.fixture
def failing() -> Iterator[None]:
    """Makes `failing_hook:redact` a redaction that always fails."""
    module: Any = types.ModuleType("failing_hook")
    module.redact = lambda text: 1 / 0
    sys.modules["failing_hook"] = module
    yield
    del sys.modules["failing_hook"]


@pytest.fixture
async def gateway(neighbours: Neighbours) -> AsyncIterator[Gateway]:
    """Yields a running gateway with a ready engine that holds both adapters."""
    await neighbours.ready()
    async with neighbours.gateway() as gateway:
        yield gateway


@pytest.fixture
async def http(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with open_http_client(gateway) as client:
        yield client


@pytest.fixture(params=API_CLIENTS)
async def api(request: pytest.FixtureRequest, gateway: Gateway) -> AsyncIterator[ApiClient]:
    async with open_api_client(request.param, gateway.url, gateway.grpc_address) as api:
        yield api
