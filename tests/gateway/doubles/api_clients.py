"""Clients of the gateway's APIs with one interface, so that one test can use each of them."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol

import httpx
from pointsman_servicekit.grpc_client import open_channel

from tests.gateway.doubles.answers import Answer, Messages
from tests.gateway.doubles.grpc_clients import GrpcStreamClient, GrpcUnaryClient
from tests.gateway.doubles.http_clients import HttpClient, HttpStreamClient

__all__ = [
    "API_CLIENTS",
    "Answer",
    "ApiClient",
    "GrpcStreamClient",
    "GrpcUnaryClient",
    "HttpClient",
    "HttpStreamClient",
    "open_api_client",
]


class ApiClient(Protocol):
    """A client of one API. Errors are raised as the PointsmanError that the gateway reported."""

    async def ask(self, messages: Messages | str, model: str = "auto", **parameters: Any) -> Answer: ...

    async def route(self, messages: Messages | str, model: str = "auto", **parameters: Any) -> Mapping[str, Any]: ...

    async def say(self, decision_id: str, **received: Any) -> tuple[str, bool]:
        """Sends feedback. Returns where the gateway stored it, and whether the gateway already had it."""
        ...

    async def models(self) -> list[str]:
        """Returns the names that `model` accepts."""
        ...


API_CLIENTS: Mapping[str, type[HttpClient] | type[GrpcStreamClient]] = {
    "http": HttpClient, "http-stream": HttpStreamClient, "grpc": GrpcStreamClient, "grpc-once": GrpcUnaryClient,
}  # fmt: skip
"""The classes of clients, by the names that tests use."""


@asynccontextmanager
async def open_api_client(name: str, url: str, grpc_address: str) -> AsyncIterator[ApiClient]:
    api = API_CLIENTS[name]
    if issubclass(api, GrpcStreamClient):
        async with open_channel(grpc_address) as channel:
            yield api(channel)
    else:
        # verify=False: nothing is encrypted here, and loading the certificates takes longer than most tests.
        async with httpx.AsyncClient(base_url=url, timeout=10, verify=False) as client:
            yield api(client)
