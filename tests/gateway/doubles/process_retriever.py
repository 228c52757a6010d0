"""The real retriever as a process, `python -m pointsman_retriever`, with a small handbook."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pointsman.v1 import retriever_pb2 as pb
from pointsman.v1 import retriever_pb2_grpc
from pointsman_servicekit.grpc_client import open_channel

from tests.gateway.doubles.processes import Process
from tests.ports import free_port

HANDBOOK = {
    "bicycles.md": "Bicycles ride free outside the rush hour; a folded one is luggage.",
    "dogs.md": "A dog on a lead travels with a child's ticket.",
}


class ProcessRetriever(Process):
    def __init__(self, folder: Path, model: Path, tokens: Path | None = None, token: str = "") -> None:
        """Takes the embedding model's folder. `tokens` is the file of accepted tokens, and `token` the one with which
        the handbook is written.
        """
        self._token = (lambda: token) if token else None
        self.address = f"127.0.0.1:{free_port()}"
        self.metrics_address = f"127.0.0.1:{free_port()}"
        settings = {"LISTEN": self.address, "METRICS_LISTEN": self.metrics_address, "DATA": str(folder / "retriever")}
        environment = {f"POINTSMAN_RETRIEVER_{name}": value for name, value in settings.items()}
        environment["POINTSMAN_RETRIEVER_EMBEDDING_MODEL"] = str(model)
        environment["POINTSMAN_RETRIEVER_TOKENS"] = str(tokens or "")
        super().__init__(
            [sys.executable, "-m", "pointsman_retriever"], environment, folder / "retriever.log", "serving at"
        )

    async def fill(self) -> None:
        documents = [pb.Document(id=name, title=name, text=text) for name, text in HANDBOOK.items()]
        async with open_channel(self.address, token=self._token) as channel:
            stub = retriever_pb2_grpc.RetrieverStub(channel)
            await stub.CreateCollection(pb.CreateCollectionRequest(name="handbook", if_missing=True))
            await stub.Upsert(pb.UpsertRequest(collection="handbook", documents=documents))


@asynccontextmanager
async def process_retriever(folder: Path, model: Path) -> AsyncIterator[ProcessRetriever]:
    retriever = ProcessRetriever(folder, model)
    try:
        await retriever.start()
        await retriever.fill()
        yield retriever
    finally:
        await retriever.kill()
