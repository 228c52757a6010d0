"""Delays the leases of quotas."""

import asyncio

import pytest
from pointsman_gateway.domain import Caller
from pointsman_gateway.tenancy.reservation import LeasedReservation
from pointsman_gateway.tenancy.stage import OpenAccess, RedisTenancy


def held_back(tenancy: RedisTenancy | OpenAccess, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Makes all requests wait for their quota until the returned event is set."""
    given, enter_now, enter = asyncio.Event(), tenancy.enter_now, tenancy.enter

    def now(caller: Caller, tokens: int) -> LeasedReservation | None:
        return enter_now(caller, tokens) if given.is_set() else None  # type: ignore[return-value]  # either's hold

    async def later(caller: Caller, tokens: int) -> LeasedReservation:
        await given.wait()
        return await enter(caller, tokens)  # type: ignore[return-value]  # either's hold

    monkeypatch.setattr(tenancy, "enter_now", now)
    monkeypatch.setattr(tenancy, "enter", later)
    return given
