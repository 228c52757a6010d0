"""Registers adapters with the lora-server."""

from collections.abc import Mapping
from dataclasses import dataclass

from pointsman.v1 import lora_server_pb2
from pointsman_servicekit.errors import DeadlineExceeded

from pointsman_cli.example import ExampleAdapter
from pointsman_cli.grpc_clients import lora_server_stub, open_channel, service_errors

_REGISTER_SECONDS = 600.0
"""Timeout of a registration.

It covers checks, a copy, a smoke test in a process that imports torch (up to a minute), loading and the first slow
generation. Adapters registered at the same time are smoke-tested one after the other.
"""
_LIST_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where an adapter comes from, and who registers it."""

    parent: str = ""
    """The version that its training started from."""
    author: str = ""
    force: bool = False
    """Move the alias even if the evaluation found prompting to be as good."""


@dataclass(frozen=True, slots=True)
class RegisteredAdapter:
    version: str  # "triage@3f9a1c0b77de"
    aliases: tuple[str, ...]  # "triage@prod"

    def __str__(self) -> str:
        return f"{self.version} ({', '.join(self.aliases)})" if self.aliases else self.version


async def register_adapter(
    address: str, adapter: ExampleAdapter, facts: Mapping[str, str], origin: Provenance | None = None
) -> RegisteredAdapter:
    """Registers an adapter and moves its alias, if it names one.

    The lora-server checks, smoke-tests and loads the adapter first. It continues if the call is cancelled or times out.
    """
    origin = origin or Provenance()
    request = lora_server_pb2.RegisterRequest(
        name=adapter.name,
        folder=str(adapter.folder.absolute()),
        alias=adapter.alias,
        facts=dict(facts),
        parent=origin.parent,
        author=origin.author,
        force=origin.force,
    )
    async with open_channel(address) as channel:
        try:
            with service_errors("lora-server"):
                version = await lora_server_stub(channel).Register(request, timeout=_REGISTER_SECONDS)
        except DeadlineExceeded as error:
            raise DeadlineExceeded(
                f"{error.message} ({_REGISTER_SECONDS:.0f} s); it goes on by itself: `pointsman adapters list` shows "
                "how far it is",
                code=error.code,
            ) from error
    return _registered(version)


async def list_registered(address: str) -> tuple[RegisteredAdapter, ...]:
    async with open_channel(address) as channel:
        with service_errors("lora-server"):
            answer = await lora_server_stub(channel).List(lora_server_pb2.ListAdaptersRequest(), timeout=_LIST_SECONDS)
    return tuple(_registered(version) for version in answer.versions)


def _registered(version: lora_server_pb2.AdapterVersion) -> RegisteredAdapter:
    return RegisteredAdapter(version.version, tuple(version.aliases))
