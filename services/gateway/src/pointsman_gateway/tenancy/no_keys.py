"""Where keys are off: anybody may do anything."""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from pointsman_gateway.domain import ANONYMOUS, Caller, Usage

log = logging.getLogger(__name__)

_NO_HEADERS: Mapping[str, str] = {}


class FreeHold:
    """Holds nothing."""

    __slots__ = ()
    headers = _NO_HEADERS

    def afford_now(self, usd: float) -> bool:
        return True

    async def afford(self, usd: float) -> None:
        pass

    def settle(self, usage: Usage, usd: float, outcome: str) -> None:
        pass


_FREE = FreeHold()


class NoKeys:
    """Stands where `Tenancy` stands."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        log.warning("keys are off: whoever reaches this gateway may use all of it")
        yield

    def identify_now(self, credential: str) -> Caller | None:
        return ANONYMOUS

    async def identify(self, credential: str) -> Caller:
        return ANONYMOUS

    def enter_now(self, caller: Caller, tokens: int) -> FreeHold | None:
        return _FREE

    async def enter(self, caller: Caller, tokens: int) -> FreeHold:
        return _FREE

    def headers(self, caller: Caller) -> Mapping[str, str]:
        return _NO_HEADERS
