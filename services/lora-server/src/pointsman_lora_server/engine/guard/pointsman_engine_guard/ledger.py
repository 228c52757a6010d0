"""The adapters in vLLM's slots: what is loaded, what may be asked for, and what is in flight with each."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import wraps
from typing import Any

from .uses import Tally, Use, current

MakeRequest = Callable[[str, int, str], Any]
"""Name, number and folder -> vLLM's LoRARequest."""


class Refused(Exception):
    """The engine will not have it; the text says why."""


class Full(Exception):
    """Every slot is taken. vLLM would throw out the least recently used adapter, in use or not."""


class InUse(Exception):
    def __init__(self, in_flight: int) -> None:
        super().__init__(f"{in_flight} in flight")
        self.in_flight = in_flight


class Held:
    """An adapter whose weights are in the engine."""

    __slots__ = ("request", "tally")

    def __init__(self, request: Any) -> None:
        self.request = request
        self.tally = Tally()


class OpenAdapters(dict[str, Any]):
    """vLLM's own table of names; whoever takes an adapter out of it uses it from then on.

    Between that moment and the first step of the engine a request is rendered and waits: were it not counted, its
    adapter could be removed meanwhile, and the engine would read the folder again, throwing out another one.
    """

    def __init__(self, held: dict[int, Held]) -> None:
        super().__init__()
        self._held = held

    def __getitem__(self, name: str) -> Any:
        request = super().__getitem__(name)
        use = current.get()
        if use is not None:
            use.take(self._held[request.lora_int_id].tally)
        return request

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default  # noqa: SIM401  # dict.get would not ask __getitem__


class Ledger:
    def __init__(self, models: Any, engine: Any, make_request: MakeRequest) -> None:
        """`models` is vLLM's OpenAIServingModels, `engine` its AsyncLLM; both are changed to be counted here."""
        self._models = models
        self._engine = engine
        self._make_request = make_request
        config = engine.vllm_config.lora_config
        self.slots: int = min(config.max_loras, config.max_cpu_loras or config.max_loras) if config else 0
        self._held: dict[int, Held] = {}
        self._by_name: dict[str, Held] = {}
        self._base = Tally()
        self._in_engine = 0
        self._one_at_a_time = asyncio.Lock()
        self._open = models.lora_requests = OpenAdapters(self._held)
        models.lora_resolvers.clear()
        models.show_available_models = _without_paths(models.show_available_models)
        engine.generate = self._counted(engine.generate)
        engine.encode = self._counted(engine.encode)

    def report(self) -> dict[str, Any]:
        return {
            "adapters": {
                name: _told(held.tally) | {"open": name in self._open} for name, held in self._by_name.items()
            },
            "base": _told(self._base),
            "slots": self.slots,
            "in_engine": self._in_engine,
        }

    async def load(self, name: str, folder: str) -> None:
        """Raises Refused, Full. What is held is opened again, with the number that it has."""
        async with self._one_at_a_time:
            held = self._by_name.get(name)
            if held is not None:
                self._open[name] = held.request
                return
            if self._models.is_base_model(name):
                raise Refused(f"{name} is the base model's name")
            # Of the engine itself: it alone knows what it would throw out.
            if await self._engine_holds() >= self.slots:
                raise Full(f"all {self.slots} are taken")
            held = Held(self._make_request(name, self._models.lora_id_counter.inc(1), folder))
            try:
                await self._engine.add_lora(held.request)
            except Exception as error:
                if self._engine.errored:
                    raise
                await self._engine_holds()
                raise Refused(str(error).replace(folder, name)) from error
            self._held[held.request.lora_int_id] = self._by_name[name] = held
            self._open[name] = held.request
            await self._engine_holds()

    def close(self, name: str) -> int:
        """New requests do not find it any more; returns how many are in flight."""
        self._open.pop(name, None)
        held = self._by_name.get(name)
        return held.tally.in_flight if held else 0

    async def remove(self, name: str) -> None:
        """Raises InUse. What is not there is no error."""
        async with self._one_at_a_time:
            held = self._by_name.get(name)
            if held is None:
                return
            if held.tally.in_flight:
                raise InUse(held.tally.in_flight)
            self._open.pop(name, None)
            await self._engine.remove_lora(held.request.lora_int_id)
            del self._by_name[name], self._held[held.request.lora_int_id]
            await self._engine_holds()

    async def _engine_holds(self) -> int:
        """How many; what is in its slots and is none of ours, such as the rest of a load that failed, goes."""
        numbers = set(await self._engine.list_loras())
        for stranger in numbers - self._held.keys():
            await self._engine.remove_lora(stranger)
        self._in_engine = len(numbers & self._held.keys())
        return self._in_engine

    def _counted(self, produce: Callable[..., AsyncGenerator[Any, None]]) -> Callable[..., AsyncGenerator[Any, None]]:
        """vLLM's `generate` or `encode`, counted until it is closed and what it began is aborted."""

        @wraps(produce)
        async def counted(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
            use = current.get()
            use = _entered(use) if use is not None else Use()
            try:
                use.take(self._tally_of(kwargs.get("lora_request")))
                async with aclosing(produce(*args, **kwargs)) as outputs:
                    async for output in outputs:
                        yield output
            finally:
                use.leave()

        return counted

    def _tally_of(self, request: Any) -> Tally:
        if request is None:
            return self._base
        held = self._held.get(request.lora_int_id)
        if held is None:
            raise LookupError(f"The model `{request.lora_name}` does not exist.")
        return held.tally


def vllm_request(name: str, number: int, folder: str) -> Any:
    from vllm.lora.request import LoRARequest

    return LoRARequest(lora_name=name, lora_int_id=number, lora_path=folder)


def _entered(use: Use) -> Use:
    use.enter()
    return use


def _told(tally: Tally) -> dict[str, Any]:
    return {"in_flight": tally.in_flight, "requests": tally.requests, "idle_seconds": tally.idle_seconds}


def _without_paths(show: Callable[[], Any]) -> Callable[[], Any]:
    """GET /v1/models says where models lie on the server's disk; the world needs their names alone."""

    @wraps(show)
    async def shown() -> Any:
        models = await show()
        for card in models.data:
            card.root = card.id
        return models

    return shown
