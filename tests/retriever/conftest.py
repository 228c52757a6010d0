"""Fixtures: a real retriever on a free port with real gRPC, FAISS, SQLite and embedding model."""

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from pointsman_embedding import Encoder, MiniLM
from pointsman_retriever import bootstrap
from pointsman_retriever.settings import Settings
from pointsman_servicekit.errors import PointsmanError
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.grpc_errors import from_rpc_error

from tests.retriever.client import Client, OpenClient, Refusal, Start


@pytest.fixture
def start(tmp_path: Path, minilm: MiniLM, model_folder: Path) -> Start:
    """Returns a function that runs a retriever in this test's folder: `async with start() as client`. A second call
    restarts it.
    """

    @asynccontextmanager
    async def start(
        model: Encoder = minilm, search_threads: int = 2, data: Path = tmp_path / "data", **further: Any
    ) -> AsyncIterator[Client]:
        settings = Settings(
            listen="127.0.0.1:0",
            metrics_listen="127.0.0.1:0",
            data=data,
            embedding_model=model_folder,
            search_threads=search_threads,
            **further,
        )
        async with bootstrap.run_service(settings, model) as running, open_channel(running.address) as channel:
            yield Client(running.address, running.metrics_port, channel)

    return start


@pytest.fixture
async def client(start: Start) -> AsyncIterator[Client]:
    """Yields a client of a retriever with one empty collection, "notes"."""
    async with start() as client:
        await client.create()
        yield client


@pytest.fixture
def open_client() -> OpenClient:
    """Returns a function that opens a client of a retriever in another process."""

    @asynccontextmanager
    async def open_client(address: str) -> AsyncIterator[Client]:
        async with open_channel(address) as channel:
            yield Client(address, 0, channel)

    return open_client


@pytest.fixture
def refusal() -> Refusal:
    """Returns a function that awaits a call which must fail, and returns its error."""

    async def refusal(call: Awaitable[object]) -> PointsmanError:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call
        return from_rpc_error(raised.value, "retriever")

    return refusal
