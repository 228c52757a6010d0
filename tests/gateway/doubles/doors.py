"""Clients of the gateway's APIs with one interface, so that one test can use each of them."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol

import httpx
from pointsman_servicekit.grpc_client import open_channel

from tests.gateway.doubles.answers import Answer, Messages
from tests.gateway.doubles.grpc_doors import GrpcDoor, GrpcOnceDoor
from tests.gateway.doubles.http_doors import HttpDoor, HttpStreamDoor

__all__ = ["DOORS", "Answer", "Door", "GrpcDoor", "GrpcOnceDoor", "HttpDoor", "HttpStreamDoor", "opening_door"]


class Door(Protocol):
    """A client of one API. Errors are raised as the PointsmanError that the gateway reported."""

    async def ask(self, messages: Messages | str, model: str = "auto", **parameters: Any) -> Answer: ...

    async def route(self, messages: Messages | str, model: str = "auto", **parameters: Any) -> Mapping[str, Any]: ...

    async def say(self, decision_id: str, **said: Any) -> tuple[str, bool]:
        """Sends feedback; returns where it was stored, and whether it was known already."""
        ...

    async def models(self) -> list[str]:
        """Returns the names that `model` accepts."""
        ...


DOORS: Mapping[str, type[HttpDoor] | type[GrpcDoor]] = {
    "http": HttpDoor, "http-stream": HttpStreamDoor, "grpc": GrpcDoor, "grpc-once": GrpcOnceDoor,
}  # fmt: skip
"""The clients by the names that tests use."""


@asynccontextmanager
async def opening_door(name: str, url: str, grpc_address: str) -> AsyncIterator[Door]:
    door = DOORS[name]
    if issubclass(door, GrpcDoor):
        async with open_channel(grpc_address) as channel:
            yield door(channel)
    else:
        # verify=False: nothing is encrypted here, and loading the certificates takes longer than most tests.
        async with httpx.AsyncClient(base_url=url, timeout=10, verify=False) as client:
            yield door(client)
