"""The wrapper: an adapter that no engine holds is loaded first, also one that was evicted at the last moment."""

import asyncio
import zlib
from collections.abc import Callable
from dataclasses import replace

from pointsman_servicekit.eager import in_task
from pointsman_servicekit.errors import PointsmanError, Unavailable

from pointsman_gateway.backends.balancing import Candidates
from pointsman_gateway.backends.engines import Engines, Target
from pointsman_gateway.backends.failures import NotLoaded, NotLoadedInTime, NotResident
from pointsman_gateway.config.schema import ResilienceConfig
from pointsman_gateway.domain import Decision, Path, Prompt, Request
from pointsman_gateway.pipeline.ports import Backend, OpenAnswer

AGAIN = 2
"""Times that a request is sent again after an engine had let go of its adapter."""


class Loading:
    """Implements `Backend` around another; a path without adapter passes through."""

    def __init__(
        self, inner: Backend, engines: Engines, clock: Callable[[], float], resilience: ResilienceConfig
    ) -> None:
        """`clock` is the event loop's, which deadlines are on."""
        self._inner = inner
        self._engines = engines
        self._clock = clock
        self._patience = resilience.adapter_load_timeout
        self._bound = resilience.load_bound

    async def open(self, request: Request, decision: Decision, prompt: Prompt) -> OpenAnswer:
        """Raises NotLoaded, and what the inner one raises."""
        if not decision.path.adapter:
            return await self._inner.open(request, decision, prompt)
        return await _Load(self._inner, self._engines, self._clock, self._patience, self._bound, request).open(
            decision, prompt
        )


class _Load:
    """What is done about the adapter of one request on one path."""

    def __init__(
        self,
        inner: Backend,
        engines: Engines,
        clock: Callable[[], float],
        patience: float,
        bound: float,
        request: Request,
    ) -> None:
        self._inner = inner
        self._engines = engines
        self._clock = clock
        self._patience = patience
        self._bound = bound
        self._request = request
        self._waited = 0.0

    async def open(self, decision: Decision, prompt: Prompt) -> OpenAnswer:
        path, lost = decision.path, 0
        version = self._engines.version_of(path)
        while True:
            if not self._engines.holds(path.model, version):
                await self._load(path, version)
            try:
                opened = await self._inner.open(self._request, decision, prompt)
            except NotResident as error:
                lost += 1
                if lost > AGAIN or not self._may_be_had(path, version):
                    raise NotLoaded(error.message, self._waited, error.retry_after or 1.0) from error
            else:
                return replace(opened, waited=self._waited) if self._waited else opened

    def _may_be_had(self, path: Path, version: str) -> bool:
        return self._engines.holds(path.model, version) or self._engines.may_load(path.model, version)

    async def _load(self, path: Path, version: str) -> None:
        offers = self._engines.offers(path)
        if not offers:
            return  # then nobody can be asked, and the inner one says why
        await in_task()  # what follows sets a timeout
        began = self._clock()
        try:
            await self._load_on_one(offers, version, began)
        finally:
            self._waited += self._clock() - began

    async def _load_on_one(self, offers: list[Target], version: str, began: float) -> None:
        """All gateways begin with the same engine: by rendezvous, within its share of the load. Raises NotLoaded."""
        until = began + self._patience - self._waited
        candidates = Candidates(offers, zlib.crc32(version.encode()), self._bound)
        failed: PointsmanError | None = None
        try:
            async with asyncio.timeout_at(min(until, self._request.deadline)):
                while (target := candidates.take()) is not None:
                    try:
                        return await self._load_on(target, version)
                    except Unavailable as error:
                        failed = error
            told = f": {failed.message}" if failed else ""
            waited = self._waited + self._clock() - began
            raise NotLoaded(f"adapter '{version}' is not loaded{told}", waited) from failed
        except TimeoutError as error:
            waited = self._waited + self._clock() - began
            if self._clock() >= self._request.deadline:
                raise NotLoadedInTime(waited) from error
            raise NotLoaded(f"adapter '{version}' is not loaded within {self._patience:g} s", waited) from error
        finally:
            del failed  # or it and this frame, which is in its traceback, hold each other

    async def _load_on(self, target: Target, version: str) -> None:
        server = target.cell.lora_server
        if server is None:
            raise Unavailable(f"engine '{target.engine.name}' is followed no more", code="lora_server_unavailable")
        await server.ensure(version, self._patience)
