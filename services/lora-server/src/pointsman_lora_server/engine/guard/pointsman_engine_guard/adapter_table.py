"""Manages the adapters in vLLM's host memory: which are loaded, which are open to new requests, and which are in
use.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence, Set
from contextlib import aclosing
from functools import wraps
from typing import Any

from .base_fit import BaseLayers
from .request_use import ModelUsage, RequestUse, TokenCount, current_use

MakeRequest = Callable[[str, int, str], Any]
"""A function that takes an adapter's name, its number in vLLM (`lora_int_id`) and its folder, and returns vLLM's
LoRARequest."""


class Refused(Exception):
    """The engine rejects an adapter, or a request to the guard is malformed; the message says why."""


class NoSlot(Exception):
    """The engine already holds as many adapters as its host memory has room for (`AdapterTable.capacity`)."""


class NoFolder(Exception):
    """The engine does not find the adapter's folder or files. The adapter itself is not at fault."""


class InUse(Exception):
    def __init__(self, in_flight: int) -> None:
        super().__init__(f"{in_flight} in flight")
        self.in_flight = in_flight


class ResidentAdapter:
    """An adapter whose weights the engine holds: vLLM's LoRARequest for it, and counts of its use."""

    __slots__ = ("request", "usage")

    def __init__(self, request: Any) -> None:
        self.request = request
        self.usage = ModelUsage()


class OpenAdapters(dict[str, Any]):
    """Replaces vLLM's dictionary of adapters by name. From the moment at which a request looks an adapter up, the
    adapter counts as in use.

    Between the lookup and the engine's first step, the request is rendered and queued. If the request were not counted
    in this time, its adapter could be removed, and vLLM would read the folder again and evict another adapter for it.
    """

    def __init__(self, loaded: dict[int, ResidentAdapter]) -> None:
        super().__init__()
        self._loaded = loaded

    def __getitem__(self, name: str) -> Any:
        request = super().__getitem__(name)
        use = current_use.get()
        if use is not None:
            use.add_model(self._loaded[request.lora_int_id].usage)
        return request

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default  # noqa: SIM401  # dict.get would bypass __getitem__


class AdapterTable:
    """Loads adapters into vLLM and removes them, one at a time, and closes adapters to new requests.

    vLLM holds up to `max_cpu_loras` adapters in its host memory, and its scheduler copies up to `max_loras` of them
    into the batch. The table never loads more adapters than fit into the host memory. Otherwise vLLM would evict the
    least recently used adapter, even one in use, and would have to read its folder again.
    """

    def __init__(self, models: Any, engine: Any, make_request: MakeRequest) -> None:
        """Patches vLLM's OpenAIServingModels (`models`) and AsyncLLM (`engine`) so that requests are counted.

        Also removes vLLM's LoRA resolvers, which would load adapters by themselves, and hides the adapters' folders in
        responses to GET /v1/models. Raises AttributeError if this version of vLLM has objects of another form.
        """
        self._models = models
        self._engine = engine
        self._make_request = make_request
        config = engine.vllm_config.lora_config
        self._base = BaseLayers(engine.vllm_config.model_config.model)
        self.limits: dict[str, int] = {
            "capacity": (config.max_cpu_loras or config.max_loras) if config else 0,
            "max_loras": config.max_loras if config else 0,
            "max_lora_rank": config.max_lora_rank if config else 0,
        }
        # From --lora-modules: they are counted as any other, and nobody may close or remove them.
        self._static: dict[str, Any] = dict(models.lora_requests)
        self._by_id: dict[int, ResidentAdapter] = {
            request.lora_int_id: ResidentAdapter(request) for request in self._static.values()
        }
        self._by_name: dict[str, ResidentAdapter] = {}
        self._base_usage = ModelUsage()
        self._in_engine = 0
        self._may_hold_unknown = True
        """Whether the engine may hold adapters that this table does not know, for example after a failed load."""
        self._lock = asyncio.Lock()
        self._open = models.lora_requests = OpenAdapters(self._by_id)
        self._open.update(self._static)
        models.lora_resolvers.clear()
        models.show_available_models = _without_paths(models.show_available_models)
        engine.generate = self._counted(engine.generate)
        engine.encode = self._counted(engine.encode)

    @property
    def capacity(self) -> int:
        """Returns the number of adapters that the table may load, in addition to those of vLLM's option
        --lora-modules.
        """
        return max(0, self.limits["capacity"] - len(self._static))

    def holds(self, name: str) -> bool:
        return name in self._by_name

    def report(self) -> dict[str, Any]:
        return {
            "adapters": {
                name: _to_json(adapter.usage) | {"open": name in self._open} for name, adapter in self._by_name.items()
            },
            "base": _to_json(self._base_usage),
            "static": {name: _to_json(self._by_id[one.lora_int_id].usage) for name, one in self._static.items()},
            # Apart from the usage above, of which older lora-servers know all fields.
            "tokens": {"": self._base_usage.tokens, **{name: one.usage.tokens for name, one in self._by_name.items()}},
            **self.limits,
            "capacity": self.capacity,
            "in_engine": self._in_engine,
        }

    async def load(self, name: str, folder: str) -> None:
        """Loads an adapter into the engine. If it is already loaded, it is only opened to new requests.

        Raises Refused if the adapter does not fit the base model (`BaseLayers.why_unfit`), the engine rejects it, or
        the name is taken; NoFolder if the folder does not exist; and NoSlot if the table is full. If the engine has
        died, raises the engine's own exception.
        """
        async with self._lock:
            loaded = self._by_name.get(name)
            if loaded is not None:
                self._open[name] = loaded.request
                return
            if self._models.is_base_model(name) or name in self._static:
                raise Refused(f"{name} is the name of the base model or of an adapter in --lora-modules")
            if reason := await asyncio.to_thread(self._base.why_unfit, folder):
                raise Refused(reason)
            if self._may_hold_unknown:
                await self._remove_unknown()
            if len(self._by_name) >= self.capacity:
                raise NoSlot(f"all {self.capacity} are taken")
            loaded = ResidentAdapter(self._make_request(name, self._models.lora_id_counter.inc(1), folder))
            self._may_hold_unknown = True
            try:
                numbers = await self._then_list(self._engine.add_lora(loaded.request))
            except Exception as error:
                if self._engine.errored:
                    raise
                await self._remove_unknown()
                if not os.path.isdir(folder):  # noqa: ASYNC240  # one stat, after a load that failed
                    raise NoFolder(f"the engine finds no folder {folder}") from error
                raise Refused(str(error).replace(folder, name)) from error
            self._by_id[loaded.request.lora_int_id] = self._by_name[name] = loaded
            self._open[name] = loaded.request
            self._set_in_engine(numbers)

    def close(self, name: str) -> int:
        """Closes the adapter to new requests; returns how many of its requests are still in flight, 0 if it is not
        loaded.
        """
        loaded = self._by_name.get(name)
        if loaded is not None:
            self._open.pop(name, None)
        return loaded.usage.in_flight if loaded else 0

    async def remove(self, name: str) -> None:
        """Removes the adapter's weights from the engine; does nothing if it is not loaded. Raises InUse if requests to
        it are in flight.
        """
        async with self._lock:
            loaded = self._by_name.get(name)
            if loaded is None:
                return
            if loaded.usage.in_flight:
                raise InUse(loaded.usage.in_flight)
            self._open.pop(name, None)
            numbers = await self._then_list(self._engine.remove_lora(loaded.request.lora_int_id))
            del self._by_name[name], self._by_id[loaded.request.lora_int_id]
            self._set_in_engine(numbers)

    async def _then_list(self, change: Awaitable[Any]) -> set[int]:
        """Waits for `change`, a call that changes the engine's adapters. Returns the numbers of the adapters that the
        engine holds after the change.

        The list is requested at the same time as the change. The engine handles calls in order, between two of its
        steps; one request after the other would wait for two steps, which take 0.1 s each on a busy CPU.
        """
        results: Sequence[Any] = await asyncio.gather(change, self._engine.list_loras(), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return set(results[1])

    async def _remove_unknown(self) -> None:
        """Removes adapters from the engine that are not in this table."""
        numbers = set(await self._engine.list_loras())
        for unknown in numbers - self._by_id.keys():
            await self._engine.remove_lora(unknown)
        self._set_in_engine(numbers & self._by_id.keys())

    def _set_in_engine(self, numbers: Set[int]) -> None:
        self._in_engine = len(numbers & self._by_id.keys())
        self._may_hold_unknown = bool(numbers - self._by_id.keys())

    def _counted(self, produce: Callable[..., AsyncGenerator[Any, None]]) -> Callable[..., AsyncGenerator[Any, None]]:
        """Wraps vLLM's `generate` or `encode` so that the requested model counts as in use until the output ends or is
        aborted.
        """

        @wraps(produce)
        async def counted(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
            use = current_use.get()
            if use is None:
                use = RequestUse()
            else:
                use.start_part()
            try:
                usage = self._usage_of(kwargs.get("lora_request"))
                use.add_model(usage)
                tokens = TokenCount(usage, _is_cumulative([*args, *kwargs.values()]))
                async with aclosing(produce(*args, **kwargs)) as outputs:
                    async for output in outputs:
                        tokens.add(output)
                        yield output
            finally:
                use.end_part()

        return counted

    def _usage_of(self, request: Any) -> ModelUsage:
        if request is None:
            return self._base_usage
        loaded = self._by_id.get(request.lora_int_id)
        if loaded is None:
            raise LookupError(f"The model `{request.lora_name}` does not exist.")
        return loaded.usage


def vllm_request(name: str, number: int, folder: str) -> Any:
    from vllm.lora.request import LoRARequest

    return LoRARequest(lora_name=name, lora_int_id=number, lora_path=folder)


def _is_cumulative(arguments: Iterable[Any]) -> bool:
    """Returns whether vLLM's SamplingParams, if they are among `arguments`, request outputs that repeat all earlier
    tokens.
    """
    kinds = (getattr(argument, "output_kind", None) for argument in arguments)
    return any(getattr(kind, "name", "") == "CUMULATIVE" for kind in kinds)


def _to_json(usage: ModelUsage) -> dict[str, Any]:
    return {"in_flight": usage.in_flight, "requests": usage.requests, "idle_seconds": usage.idle_seconds}


def _without_paths(show: Callable[[], Any]) -> Callable[[], Any]:
    """Wraps the handler of GET /v1/models so that it does not show the models' paths on the server's disk."""

    @wraps(show)
    async def wrapper() -> Any:
        models = await show()
        for card in models.data:
            card.root = card.id
        return models

    return wrapper
