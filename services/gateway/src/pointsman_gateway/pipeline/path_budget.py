"""Reserves the cost of a decision's path, or of its first alternative that the caller's budget allows."""

from dataclasses import replace

from pointsman_servicekit.errors import ResourceExhausted

from pointsman_gateway.domain import Decision, Request
from pointsman_gateway.metering.pricing import CostEstimator
from pointsman_gateway.ports import Reservation


async def reserve_cost(
    decision: Decision, request: Request, reservation: Reservation, costs: CostEstimator
) -> tuple[Decision, float]:
    """Reserves the cost of the request's first path; returns the decision for it, and the dollars that are reserved.

    Raises ResourceExhausted.
    """
    while True:
        usd = decision.expected_cost_usd
        if usd is not None:
            usd += costs.extra_usd(decision)
        try:
            if not reservation.afford_now(usd):
                await reservation.afford(usd)
            return decision, usd or 0.0
        except ResourceExhausted as error:
            if not decision.alternatives:
                raise
            decision = decision.with_fallback(error.code)
            decision = replace(decision, expected_cost_usd=costs.usd(decision.path, request))


async def reserve_later_cost(
    decision: Decision, request: Request, reservation: Reservation, costs: CostEstimator, reserved_usd: float
) -> tuple[Decision, float]:
    """Reserves the cost of a later path like `reserve_cost`: only what exceeds `reserved_usd`.

    Returns the decision, and the dollars that are reserved now. Raises ResourceExhausted.
    """
    while True:
        usd = costs.usd(decision.path, request)
        if usd is not None:
            usd += costs.extra_usd(decision)
        try:
            await reservation.afford(None if usd is None else max(0.0, usd - reserved_usd))
        except ResourceExhausted as error:
            if not decision.alternatives:
                raise
            decision = decision.with_fallback(error.code)
        else:
            return decision, max(usd or 0.0, reserved_usd)
