"""The backend that loads a path's adapter into an engine, if necessary, before it calls the engine."""

import asyncio
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from pointsman_servicekit.eager import in_task
from pointsman_servicekit.errors import PointsmanError, Unavailable

from pointsman_gateway.config.models_file import ResilienceConfig
from pointsman_gateway.domain import Decision, Path, Prompt, Request
from pointsman_gateway.engines.balancing import PromptKey, TargetQueue
from pointsman_gateway.engines.engine_client import NotLoaded, NotLoadedInTime, NotResident
from pointsman_gateway.engines.engines import Engines
from pointsman_gateway.engines.lookups import Target
from pointsman_gateway.ports import AnswerStream, Backend, CallRecord

MAX_EVICTIONS = 2
"""Maximum number of times that one request is sent again because an engine has evicted its adapter."""


class AdapterLoading:
    """Loads a path's adapter if no available engine has it, then calls another `Backend`; implements `Backend`
    itself.
    """

    def __init__(
        self,
        inner: Backend,
        engines: Engines,
        clock: Callable[[], float],
        resilience: ResilienceConfig,
        lend_slot: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Takes the event loop's `clock`, and `lend_slot`, which lends a request's slot to another request while it
        waits for a load (`Admission.lend`).
        """
        self.inner = inner
        self.engines = engines
        self.lend_slot = lend_slot
        self.clock = clock
        self.timeout = resilience.adapter_load_timeout_seconds
        self.load_bound = resilience.load_bound

    async def call(self, request: Request, decision: Decision, prompt: Prompt, record: CallRecord) -> AnswerStream:
        """Loads the path's adapter if no available engine has it, and returns the answer of the inner backend.

        If an engine evicts the adapter before it answers, loads it again and repeats the call, up to `MAX_EVICTIONS`
        times. Raises NotLoaded if the adapter cannot be loaded or is evicted again, NotLoadedInTime if the request's
        deadline passes during a load, and all other errors of the inner backend.
        """
        if not decision.path.adapter:
            return await self.inner.call(request, decision, prompt, record)
        return await _Load(self, request).call(decision, prompt, record)


class _Load:
    """Calls the inner backend for one request, and loads the adapter first if no available engine has it."""

    def __init__(self, loading: AdapterLoading, request: Request) -> None:
        self._loading = loading
        self._engines = loading.engines
        self._clock = loading.clock
        self._request = request
        self._waited = 0.0

    async def call(self, decision: Decision, prompt: Prompt, record: CallRecord) -> AnswerStream:
        path, evictions = decision.path, 0
        version = self._engines.version_of(path)
        while True:
            if not self._engines.holds(path.model, version):
                await self._load(path, version)
            try:
                answer = await self._loading.inner.call(self._request, decision, prompt, record)
            except NotResident as error:
                evictions += 1
                if evictions > MAX_EVICTIONS or not self._is_obtainable(path, version):
                    raise NotLoaded(error.message, self._waited, error.retry_after or 1.0) from error
            else:
                return replace(answer, waited=self._waited) if self._waited else answer

    def _is_obtainable(self, path: Path, version: str) -> bool:
        return self._engines.holds(path.model, version) or self._engines.may_load(path.model, version)

    async def _load(self, path: Path, version: str) -> None:
        targets = self._engines.loading_targets(path)
        if not targets:
            return  # no engine can load it: the inner backend raises the reason
        await in_task()  # `asyncio.timeout_at` needs a task
        began = self._clock()
        try:
            with self._loading.lend_slot():
                await self._load_on_one(targets, version, began)
        finally:
            self._waited += self._clock() - began

    async def _load_on_one(self, targets: list[Target], version: str, began: float) -> None:
        """Loads a version by trying one engine after another, in the order of `TargetQueue` by the version's hash, so
        that all gateways begin with the same engine. Raises NotLoaded or NotLoadedInTime.
        """
        timeout = self._loading.timeout
        key = zlib.crc32(version.encode())
        queue = TargetQueue(targets, PromptKey(key, key), self._loading.load_bound)
        failure: PointsmanError | None = None
        try:
            async with asyncio.timeout_at(min(began + timeout - self._waited, self._request.deadline)):
                while (target := queue.take()) is not None:
                    try:
                        return await self._load_on(target, version)
                    except Unavailable as error:
                        failure = error
            reason = f": {failure.message}" if failure else ""
            waited = self._waited + self._clock() - began
            raise NotLoaded(f"adapter '{version}' is not loaded{reason}", waited) from failure
        except TimeoutError as error:
            waited = self._waited + self._clock() - began
            if self._clock() >= self._request.deadline:
                raise NotLoadedInTime(waited) from error
            raise NotLoaded(f"adapter '{version}' is not loaded within {timeout:g} s", waited) from error
        finally:
            del failure  # breaks the reference cycle between the error's traceback and this frame

    async def _load_on(self, target: Target, version: str) -> None:
        server = target.state.lora_server
        if server is None:
            raise Unavailable(
                f"engine '{target.engine.name}' was removed from the configuration or its group",
                code="lora_server_unavailable",
            )
        await server.ensure(version, self._loading.timeout)
