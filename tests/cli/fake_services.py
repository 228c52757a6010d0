"""Replaces the Python interpreter that `up` starts: small services at the addresses that the environment names.

Their answers are fixed. Valkey, and everything that `up` itself does, are real.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import uvicorn
from pointsman.v1 import lora_server_pb2, lora_server_pb2_grpc, retriever_pb2, retriever_pb2_grpc
from pointsman_servicekit.grpc_server import serving
from pointsman_servicekit.process import wait_for_stop_signal
from pointsman_servicekit.service_tokens import open_token_gate


class Retriever(retriever_pb2_grpc.RetrieverServicer):
    async def CreateCollection(self, request: Any, context: Any) -> retriever_pb2.Collection:
        return retriever_pb2.Collection(name=request.name)

    async def Ingest(self, requests: Any, context: Any) -> AsyncIterator[retriever_pb2.IngestResponse]:
        collection = ""
        async for request in requests:
            collection = request.begin.collection or collection
            if request.HasField("document"):
                print("ingest", collection, request.document.id, flush=True)
                state = retriever_pb2.DocumentOutcome.WRITTEN
                if not request.document.content.strip():
                    state = retriever_pb2.DocumentOutcome.FAILED
                outcome = retriever_pb2.DocumentOutcome(state=state, message=f"{request.document.id} is empty")
                yield retriever_pb2.IngestResponse(outcome=outcome)
        yield retriever_pb2.IngestResponse(summary=retriever_pb2.IngestSummary())


class LoraServer(lora_server_pb2_grpc.LoraServerServicer):
    def __init__(self) -> None:
        self.versions: list[lora_server_pb2.AdapterVersion] = []

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[lora_server_pb2.EngineState]:
        yield lora_server_pb2.EngineState(status=lora_server_pb2.ENGINE_STATUS_STARTING, detail="loading the weights")
        if "ENGINE_FAILS" in os.environ:
            down = lora_server_pb2.ENGINE_STATUS_DOWN
            yield lora_server_pb2.EngineState(status=down, engine_restarts=3, detail="vLLM: out of memory")
        yield lora_server_pb2.EngineState(status=lora_server_pb2.ENGINE_STATUS_READY)

    async def Register(self, request: Any, context: Any) -> lora_server_pb2.AdapterVersion:
        version = lora_server_pb2.AdapterVersion(
            version=f"{request.name}@3f9a1c0b77de", aliases=[f"{request.name}@{request.alias}"]
        )
        self.versions.append(version)
        return version

    async def List(self, request: Any, context: Any) -> lora_server_pb2.ListAdaptersResponse:
        return lora_server_pb2.ListAdaptersResponse(versions=self.versions)


async def run_grpc(listen: str, tokens: str, register: Any) -> None:
    """Serves only callers with an admin token."""
    async with serving(listen, [], register, gate=open_token_gate(Path(tokens), {}, listen, "")):
        await wait_for_stop_signal()


async def run_gateway() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        body = b'{"revision": "0123", "problem": ""}' if scope["path"] == "/v1/configuration" else b"ready"
        await send({"type": "http.response.body", "body": body})

    host, _, port = os.environ["POINTSMAN_GATEWAY_HTTP_LISTEN"].rpartition(":")
    server = uvicorn.Server(uvicorn.Config(app, host=host, port=int(port), lifespan="off"))
    async with serving(os.environ["POINTSMAN_GATEWAY_GRPC_LISTEN"], [], lambda server: None):
        await server.serve()


def main() -> None:
    match sys.argv[2]:
        case "pointsman_lora_server.base_model" | "pointsman_embedding.prepare":
            print("is there already")
        case "pointsman_retriever":

            def add(server: grpc.aio.Server) -> None:
                retriever_pb2_grpc.add_RetrieverServicer_to_server(Retriever(), server)

            asyncio.run(
                run_grpc(os.environ["POINTSMAN_RETRIEVER_LISTEN"], os.environ["POINTSMAN_RETRIEVER_TOKENS"], add)
            )
        case "pointsman_lora_server":

            def add_lora(server: grpc.aio.Server) -> None:
                lora_server_pb2_grpc.add_LoraServerServicer_to_server(LoraServer(), server)

            asyncio.run(run_grpc(os.environ["POINTSMAN_LORA_LISTEN"], os.environ["POINTSMAN_LORA_TOKENS"], add_lora))
        case "pointsman_gateway" if "--check" in sys.argv:
            if "CHECK_FAILS" in os.environ:
                sys.exit("pointsman_gateway: models.yaml: unknown key 'embeddings.small.uptream'")
        case "pointsman_gateway":
            if "GATEWAY_FAILS" in os.environ:
                sys.exit("pointsman_gateway: paths.yaml: path 'faq' names prompt 'faq_v2.txt'")
            asyncio.run(run_gateway())
        case other:
            sys.exit(f"unknown module {other}")


main()
