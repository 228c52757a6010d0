"""A lora-server that says of its engine what a test tells it to say."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from pointsman.v1 import lora_server_pb2 as pb
from pointsman.v1 import lora_server_pb2_grpc
from pointsman_servicekit.grpc_server import serving

SERVICE = pb.DESCRIPTOR.services_by_name["LoraServer"].full_name

STARTING, READY, DOWN = pb.ENGINE_STATUS_STARTING, pb.ENGINE_STATUS_READY, pb.ENGINE_STATUS_DOWN


class ScriptedLoraServer(lora_server_pb2_grpc.LoraServerServicer):
    def __init__(self) -> None:
        self.address = ""
        self.watchers = 0
        self._state = pb.EngineState(engine="local", status=pb.ENGINE_STATUS_STARTING, detail="loading weights")
        self._news = asyncio.Condition()

    async def say(
        self,
        status: "pb.EngineStatus",
        *,
        url: str = "",
        base_model: str = "tiny",
        resident: Sequence[str] = (),
        aliases: Mapping[str, str] = {},
        detail: str = "",
    ) -> None:
        async with self._news:
            self._state = pb.EngineState(
                engine="local",
                status=status,
                base_model=base_model,
                url=url,
                resident=resident,
                aliases=[pb.Alias(alias=alias, version=version) for alias, version in aliases.items()],
                sequence=self._state.sequence + 1,
                detail=detail,
            )
            self._news.notify_all()

    async def Watch(self, request: pb.WatchRequest, context: Any) -> AsyncIterator[pb.EngineState]:
        self.watchers += 1
        try:
            while True:
                said = self._state
                yield said
                async with self._news:
                    await self._news.wait_for(lambda said=said: self._state.sequence > said.sequence)
        finally:
            self.watchers -= 1


@asynccontextmanager
async def running_lora_server(listen: str = "127.0.0.1:0") -> AsyncIterator[ScriptedLoraServer]:
    scripted = ScriptedLoraServer()

    def register(server: Any) -> None:
        lora_server_pb2_grpc.add_LoraServerServicer_to_server(scripted, server)

    async with serving(listen, [SERVICE], register, grace=0) as server:
        scripted.address = server.address
        yield scripted
