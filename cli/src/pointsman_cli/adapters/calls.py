"""One question to the lora-server."""

from collections.abc import Awaitable, Callable
from typing import Any

from pointsman.v1 import lora_server_pb2 as pb

from pointsman_cli import stubs
from pointsman_cli.channels import open_channel

SECONDS = 10.0
"""For what is answered from Redis."""
LOAD_SECONDS = 180.0
"""For what waits for the engine: a load, or that answers in flight come to their end."""


async def ask(address: str, question: Callable[[Any], Awaitable[Any]]) -> Any:
    """`question` gets the stub. Raises a `PointsmanError` with the lora-server's own words where it refuses."""
    async with open_channel(address) as channel:
        with stubs.speaking_to("lora-server"):
            return await question(stubs.lora_server(channel))


async def list_adapters(address: str, name: str) -> pb.ListAdaptersResponse:
    request = pb.ListAdaptersRequest(name=name)
    found: pb.ListAdaptersResponse = await ask(address, lambda server: server.List(request, timeout=SECONDS))
    return found
