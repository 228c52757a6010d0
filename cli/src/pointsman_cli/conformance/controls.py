"""How the swap test loads, replaces and unloads adapters: the interface, and its implementation for vLLM and SGLang."""

from collections.abc import Mapping
from typing import Any, Protocol

import httpx
from pointsman_servicekit.http_client import open_async_client

from pointsman_cli.conformance.adapter_shelf import AdapterShelf
from pointsman_cli.conformance.errors import ControlRefused
from pointsman_cli.conformance.openai_api import error_text

LOAD_SECONDS = 120.0

IN_PLACE, RELOAD, NEW_NAME = "in place", "unload and load", "under a new name"
"""The ways in which `AdapterControl.replace` can replace an adapter's weights."""


class AdapterControl(Protocol):
    """Interface for loading, replacing and unloading the adapters of an engine or of several engines.

    In its methods, `name` is the name that an adapter has in the test, and `made` the name of the adapter in the
    AdapterShelf (the folder of test adapters) whose weights it gets. `load`, `replace` and `unload` raise
    ControlRefused if the engine rejects the change or does not answer.
    """

    @property
    def forms(self) -> tuple[str, ...]:
        """Returns the ways in which `replace` can replace an adapter's weights (IN_PLACE, ...), the usual one first."""
        ...

    async def load(self, name: str, made: str) -> None: ...

    async def replace(self, name: str, made: str, form: str) -> None:
        """Replaces the weights of the adapter `name` by those of `made`, in the way `form` (one of `forms`).

        A request that is sent after this call has returned should be answered with the new weights.
        """
        ...

    async def unload(self, name: str) -> None:
        """Unloads the adapter `name`, and all its versions that an interrupted `load` or `replace` may have loaded."""
        ...

    def model(self, name: str) -> str:
        """Returns the value of the field `model` in completion requests to the test's adapter `name`."""
        ...

    async def opens_to_anyone(self) -> bool:
        """Returns whether anybody can load and unload adapters without a key or other secret; False if unknown."""
        ...

    @property
    def remains(self) -> str:
        """Returns a sentence on adapters that the test cannot remove from the engine or lora-server, or ""."""
        ...


class RuntimeControl:
    """Changes adapters by the HTTP routes of vLLM or SGLang; implements AdapterControl.

    vLLM has these routes only if its environment has VLLM_ALLOW_RUNTIME_LORA_UPDATING=True.
    """

    remains = ""

    def __init__(self, http: httpx.AsyncClient, shelf: AdapterShelf, api: str, base_model: str) -> None:
        """Takes the API's kind, `api`: "vllm" or "sglang".

        SGLang needs the base model's name in requests for adapters, "BASE:ADAPTER": without it, SGLang answers with the
        base model.
        """
        self._http = http
        self._shelf = shelf
        prefix = "/v1" if api == "vllm" else ""
        self._load_route, self._unload_route = f"{prefix}/load_lora_adapter", f"{prefix}/unload_lora_adapter"
        self._model_prefix = "" if api == "vllm" else f"{base_model}:"
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
        return self._model_prefix + name

    async def opens_to_anyone(self) -> bool:
        """Returns whether the engine accepts a request to load an adapter without a key; False if it does not answer.

        The request has an empty name, so that it changes nothing: status 200, 400 or 422 means that no key is needed.
        """
        body = {"lora_name": "", "lora_path": ""}
        async with open_async_client(base_url=self._http.base_url, trust_env=False) as anonymous:
            try:
                response = await anonymous.post(self._load_route, json=body, timeout=LOAD_SECONDS)
            except httpx.HTTPError:
                return False
        return response.status_code in (200, 400, 422)

    async def _post(self, route: str, body: Mapping[str, Any]) -> None:
        await call(self._http, "POST", route, body)


async def call(
    http: httpx.AsyncClient, method: str, route: str, body: Any, headers: Mapping[str, str] | None = None
) -> None:
    """Sends one administrative request to `route`, with the JSON `body`.

    Raises ControlRefused if there is no answer, or its status is not 200.
    """
    try:
        response = await http.request(method, route, json=body, headers=headers, timeout=LOAD_SECONDS)
    except httpx.HTTPError as error:
        raise ControlRefused(f"no answer to {method} {route}: {type(error).__name__}: {error}") from error
    if response.status_code != 200:
        text = error_text(response.content)
        raise ControlRefused(f"{response.status_code} to {method} {route}: {text}", response.status_code)
