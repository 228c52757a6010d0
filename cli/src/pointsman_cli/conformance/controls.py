"""How a test loads, replaces and unloads adapters: by the routes of vLLM and SGLang, by our guard, or by commands."""

import asyncio
import shlex
import time
from collections.abc import Mapping
from typing import Any, Protocol

import httpx
from pointsman_servicekit.http_client import open_async_client

from pointsman_cli.conformance.adapter_shelf import AdapterShelf
from pointsman_cli.conformance.openai_api import error_text

LOAD_SECONDS = 120.0
DRAIN_SECONDS = 60.0
SWITCH_SECONDS = 1.0
"""How long requests that name a version before may still arrive after the switch to another one."""
SECRET_HEADER = "x-pointsman-secret"
GUARD_ROUTE = "/pointsman/v1/adapters"

IN_PLACE, RELOAD, NEW_NAME = "in place", "unload and load", "under a new name"
"""The ways to replace an adapter's weights."""


class ControlRefused(Exception):
    """The engine, or who manages its adapters, refused the change or did not answer; the text says why."""

    def __init__(self, message: str, status: int = 0) -> None:
        """Takes the HTTP status of the refusal, 0 if there is none."""
        super().__init__(message)
        self.status = status


class AdapterControl(Protocol):
    """Interface for changing the adapters of an engine or fleet. All methods but `model` raise ControlRefused.

    Adapters are named by the test; `made` is the name of an adapter of the shelf.
    """

    @property
    def forms(self) -> tuple[str, ...]:
        """Returns the ways in which `replace` can replace an adapter; the first is the usual one."""
        ...

    async def load(self, name: str, made: str) -> None: ...

    async def replace(self, name: str, made: str, form: str) -> None:
        """Replaces the weights under the name; when it returns, new requests should get the new ones."""
        ...

    async def unload(self, name: str) -> None: ...

    def model(self, name: str) -> str:
        """Returns the model that requests for the adapter name."""
        ...

    async def opens_to_anyone(self) -> bool:
        """Returns whether the change of adapters needs no credential; False if it cannot be told."""
        ...


class RuntimeControl:
    """The routes of vLLM (VLLM_ALLOW_RUNTIME_LORA_UPDATING=True) or SGLang."""

    def __init__(self, http: httpx.AsyncClient, shelf: AdapterShelf, api: str) -> None:
        """Takes a client of the engine; `api` is the engine's interface for adapters, "vllm" or "sglang"."""
        self._http = http
        self._shelf = shelf
        prefix = "/v1" if api == "vllm" else ""
        self._load_route, self._unload_route = f"{prefix}/load_lora_adapter", f"{prefix}/unload_lora_adapter"
        self.forms: tuple[str, ...] = (IN_PLACE, RELOAD) if api == "vllm" else (RELOAD,)

    async def load(self, name: str, made: str) -> None:
        await self._post(self._load_route, {"lora_name": name, "lora_path": self._shelf.serve(name, made)})

    async def replace(self, name: str, made: str, form: str) -> None:
        path = self._shelf.serve(name, made)
        if form == IN_PLACE:
            await self._post(self._load_route, {"lora_name": name, "lora_path": path, "load_inplace": True})
            return
        await self.unload(name)
        await self._post(self._load_route, {"lora_name": name, "lora_path": path})

    async def unload(self, name: str) -> None:
        await self._post(self._unload_route, {"lora_name": name})

    def model(self, name: str) -> str:
        return name

    async def opens_to_anyone(self) -> bool:
        """Sends an empty name without a key: it changes nothing, and is answered with 400 if the route is open."""
        body = {"lora_name": "", "lora_path": ""}
        async with open_async_client(base_url=self._http.base_url, trust_env=False) as anonymous:
            try:
                response = await anonymous.post(self._load_route, json=body, timeout=LOAD_SECONDS)
            except httpx.HTTPError:
                return False
        return response.status_code in (200, 400, 422)

    async def _post(self, route: str, body: Mapping[str, Any]) -> None:
        await call(self._http, "POST", route, body)


class GuardControl:
    """The routes of Pointsman's guard in a vLLM. Versions get names of their own: a name never means other weights."""

    forms = (NEW_NAME,)

    def __init__(self, http: httpx.AsyncClient, shelf: AdapterShelf, secret: str) -> None:
        self._http = http
        self._shelf = shelf
        self._secret = secret
        self._names: dict[str, str] = {}
        self._count = 0

    async def load(self, name: str, made: str) -> None:
        self._count += 1
        versioned = f"{name}.{self._count}"
        path = self._shelf.serve(versioned, made)
        await self._call("PUT", f"/{versioned}", {"folder": path})
        self._names[name] = versioned

    async def replace(self, name: str, made: str, form: str) -> None:
        old = self._names[name]
        await self.load(name, made)
        await asyncio.sleep(SWITCH_SECONDS)
        await self._remove(old)

    async def unload(self, name: str) -> None:
        if name in self._names:
            await self._remove(self._names[name])

    def model(self, name: str) -> str:
        return self._names.get(name, name)

    async def opens_to_anyone(self) -> bool:
        response = await self._http.get(GUARD_ROUTE, timeout=LOAD_SECONDS)
        return response.status_code == 200

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


class CommandControl:
    """Commands of the caller, for fleets whose adapters are changed by other means, such as kubectl or a bucket.

    A command's arguments may contain {name} and {folder}. Replacing runs the load command again.
    """

    forms = (IN_PLACE,)

    def __init__(self, shelf: AdapterShelf, load: str, unload: str, model: str) -> None:
        """Takes the commands that load and unload an adapter. `model` is the name that requests use, with {name} and
        {folder} as in the commands: "{name}", or "{folder}" for LoRAX.
        """
        self._shelf = shelf
        self._load, self._unload, self._model = shlex.split(load), shlex.split(unload), model

    async def load(self, name: str, made: str) -> None:
        self._shelf.serve(name, made)
        await run_command(self._filled(self._load, name))

    async def replace(self, name: str, made: str, form: str) -> None:
        await self.load(name, made)

    async def unload(self, name: str) -> None:
        await run_command(self._filled(self._unload, name))

    def model(self, name: str) -> str:
        return self._filled([self._model], name)[0]

    async def opens_to_anyone(self) -> bool:
        return False

    def _filled(self, arguments: list[str], name: str) -> list[str]:
        folder = self._shelf.engine_path(self._shelf.folder / "served" / name)
        return [each.replace("{name}", name).replace("{folder}", folder) for each in arguments]


async def run_command(arguments: list[str], max_seconds: float = LOAD_SECONDS) -> None:
    """Runs a program of the caller to its end; raises ControlRefused if it does not start, fails or takes too long."""
    try:
        process = await asyncio.create_subprocess_exec(
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except OSError as error:
        raise ControlRefused(f"{arguments[0]} cannot be started: {error}") from error
    try:
        async with asyncio.timeout(max_seconds):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise ControlRefused(f"{arguments[0]} did not end within {max_seconds:g} s") from None
    if process.returncode:
        last = (output.decode("utf-8", "replace").strip().splitlines() or [""])[-1]
        raise ControlRefused(f"{arguments[0]} ended with exit code {process.returncode}: {last[:200]}")


async def call(
    http: httpx.AsyncClient, method: str, route: str, body: Any, headers: Mapping[str, str] | None = None
) -> None:
    """Sends one administrative request; raises ControlRefused unless it is answered with 200."""
    try:
        response = await http.request(method, route, json=body, headers=headers, timeout=LOAD_SECONDS)
    except httpx.HTTPError as error:
        raise ControlRefused(f"no answer to {method} {route}: {type(error).__name__}: {error}") from error
    if response.status_code != 200:
        text = error_text(response.content)
        raise ControlRefused(f"{response.status_code} to {method} {route}: {text}", response.status_code)
