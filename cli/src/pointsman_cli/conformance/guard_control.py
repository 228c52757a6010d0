"""Loads and replaces the swap test's adapters by the HTTP routes that Pointsman's guard (middleware) adds to vLLM."""

import asyncio
import time
from typing import Any

import httpx

from pointsman_cli.conformance.adapter_shelf import AdapterShelf
from pointsman_cli.conformance.controls import LOAD_SECONDS, NEW_NAME, call
from pointsman_cli.conformance.errors import ControlRefused

DRAIN_SECONDS = 60.0
SWITCH_SECONDS = 1.0
"""Seconds after a replacement in which the engine may still receive requests that name the old version."""
SECRET_HEADER = "x-pointsman-secret"
GUARD_ROUTE = "/pointsman/v1/adapters"


class GuardControl:
    """Changes adapters by the routes of Pointsman's guard in vLLM; implements AdapterControl.

    Each loaded version gets a new name at the engine ("NAME.1", "NAME.2"), so the weights under a name never change.
    """

    forms = (NEW_NAME,)
    remains = ""

    def __init__(self, http: httpx.AsyncClient, shelf: AdapterShelf, secret: str) -> None:
        self._http = http
        self._shelf = shelf
        self._secret = secret
        self._current: dict[str, str] = {}
        """The version that requests name, by the adapter's name."""
        self._held: dict[str, list[str]] = {}
        """The versions that the engine may hold, by the adapter's name."""
        self._count = 0

    async def load(self, name: str, made: str) -> None:
        self._count += 1
        versioned = f"{name}.{self._count}"
        path = self._shelf.serve(versioned, made)
        self._held.setdefault(name, []).append(versioned)  # before the call, whose answer may never come
        await self._call("PUT", f"/{versioned}", {"folder": path})
        self._current[name] = versioned

    async def replace(self, name: str, made: str, form: str) -> None:
        await self.load(name, made)
        await asyncio.sleep(SWITCH_SECONDS)
        await self._remove_all(name, except_for=self._current[name])

    async def unload(self, name: str) -> None:
        await self._remove_all(name)

    def model(self, name: str) -> str:
        return self._current.get(name, name)

    async def opens_to_anyone(self) -> bool:
        try:
            response = await self._http.get(GUARD_ROUTE, timeout=LOAD_SECONDS)
        except httpx.HTTPError:
            return False
        return response.status_code == 200

    async def _remove_all(self, name: str, except_for: str = "") -> None:
        held = self._held.get(name, [])
        for versioned in [each for each in held if each != except_for]:
            await self._remove(versioned)
            held.remove(versioned)

    async def _remove(self, versioned: str) -> None:
        """Closes the version to new requests, and removes its weights once those in flight have ended."""
        await self._call("POST", f"/{versioned}/close", None)
        deadline = time.monotonic() + DRAIN_SECONDS
        while True:
            try:
                await self._call("DELETE", f"/{versioned}", None)
            except ControlRefused as error:
                if error.status != 409 or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.05)
            else:
                return

    async def _call(self, method: str, path: str, body: Any) -> None:
        await call(self._http, method, GUARD_ROUTE + path, body, {SECRET_HEADER: self._secret})
