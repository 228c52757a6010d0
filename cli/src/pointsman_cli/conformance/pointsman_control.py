"""Changes adapters through Pointsman's lora-server as users do: registers versions, and moves an alias between them."""

from collections.abc import Awaitable, Callable
from typing import Any

from pointsman.v1 import lora_server_pb2 as pb
from pointsman_servicekit.errors import PointsmanError

from pointsman_cli.conformance.adapter_shelf import AdapterShelf
from pointsman_cli.conformance.bench import MOVING_PART
from pointsman_cli.conformance.errors import ControlRefused
from pointsman_cli.conformance.plan import MOVING_ADAPTER
from pointsman_cli.errors import CommandError
from pointsman_cli.grpc_clients import CALL_SECONDS, LOAD_SECONDS, call_lora_server

ALIAS_MOVE = "by an alias"
ALIAS = "swap-test"
MOVING = MOVING_ADAPTER
"""The name under which every run registers the adapter whose versions it swaps, since its alias cannot be removed."""
REGISTER_SECONDS = 600.0
"""Timeout in seconds of a registration, during which the lora-server may run a smoke test with PEFT."""


class PointsmanControl:
    """Loads and unloads the swap test's adapters through Pointsman's lora-server; implements AdapterControl.

    An adapter with "moving" in its name is replaced by pointing an alias to another version. All runs share this alias,
    so there may be only one such adapter at a time. An alias cannot be removed: its last version stays registered, but
    no engine keeps it loaded.
    """

    forms = (ALIAS_MOVE,)

    def __init__(self, address: str, shelf: AdapterShelf) -> None:
        """Takes the lora-server's address ("HOST:PORT")."""
        self._address = address
        self._shelf = shelf
        self._versions: dict[str, str] = {}

    async def load(self, name: str, made: str) -> None:
        adapter, alias = (MOVING, ALIAS) if _moves(name) else (name, "")
        request = pb.RegisterRequest(
            name=adapter, folder=self._shelf.serve(name, made), alias=alias, author="pointsman conformance swap"
        )
        registered = await self._call(lambda server: server.Register(request, timeout=REGISTER_SECONDS))
        version = str(registered.version)
        if not alias:
            loading = pb.EnsureLoadedRequest(version=version)
            await self._call(lambda server: server.EnsureLoaded(loading, timeout=LOAD_SECONDS))
        self._versions[adapter] = version
        await self._remove_all(adapter, except_for=version)

    async def replace(self, name: str, made: str, form: str) -> None:
        await self.load(name, made)

    async def unload(self, name: str) -> None:
        if _moves(name):
            placement = pb.Placement(name=MOVING, kind=pb.PLACEMENT_KIND_ON_DEMAND)
            request = pb.SetPlacementRequest(placement=placement, author="pointsman conformance swap")
            await self._call(lambda server: server.SetPlacement(request, timeout=CALL_SECONDS))
            await self._remove_all(MOVING, except_for=self._versions.get(MOVING, ""))
        else:
            await self._remove_all(name)

    def model(self, name: str) -> str:
        return f"{MOVING}@{ALIAS}" if _moves(name) else self._versions.get(name, name)

    async def opens_to_anyone(self) -> bool:
        return False

    @property
    def remains(self) -> str:
        version = self._versions.get(MOVING)
        stays = f"{version} stays registered, since the alias {MOVING}@{ALIAS} points to it and cannot be removed"
        return f"{stays}; no engine keeps it" if version else ""

    async def _remove_all(self, adapter: str, except_for: str = "") -> None:
        """Removes the adapter's versions, also those whose registration was interrupted, but for those that an alias
        points to.
        """
        request = pb.ListAdaptersRequest(name=adapter)
        listed = await self._call(lambda server: server.List(request, timeout=CALL_SECONDS))
        for each in listed.versions:
            if each.version != except_for and not each.aliases:
                await self._remove(str(each.version))

    async def _remove(self, version: str) -> None:
        retiring = pb.RetireRequest(version=version, reason="the swap test has ended with it")
        await self._call(lambda server: server.Retire(retiring, timeout=CALL_SECONDS))
        await self._call(lambda server: server.Delete(pb.DeleteAdapterRequest(version=version), timeout=LOAD_SECONDS))

    async def _call(self, question: Callable[[Any], Awaitable[Any]]) -> Any:
        try:
            return await call_lora_server(self._address, question)
        except (PointsmanError, CommandError) as error:
            raise ControlRefused(str(getattr(error, "message", error))) from error


def _moves(name: str) -> bool:
    return MOVING_PART in name and "/" not in name
