"""Reserves the cost of a decision's path, or of its first alternative that the caller's budget allows."""

from dataclasses import replace

from pointsman_servicekit.errors import ResourceExhausted

from pointsman_gateway.domain import Decision, Request
from pointsman_gateway.metering.pricing import CostEstimator
from pointsman_gateway.ports import Reservation


async def reserve_cost(
    decision: Decision, request: Request, reservation: Reservation, costs: CostEstimator
) -> tuple[Decision, float]:
    """Reserves the cost of the decision's path or, if the budget does not allow that, of its first alternative that it
    allows. Returns the decision for the path, and the dollars that are reserved. Raises ResourceExhausted if no path is
    allowed, or Unavailable.
    """
    while True:
        usd = _cost_to_reserve(decision, request, reservation, costs)
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
    """Reserves the cost of a later path like `reserve_cost`, but only what exceeds `reserved_usd`. Returns the decision
    for the path, and all dollars that are reserved now. Raises ResourceExhausted or Unavailable.
    """
    while True:
        usd = _cost_to_reserve(decision, request, reservation, costs)
        try:
            await reservation.afford(None if usd is None else max(0.0, usd - reserved_usd))
        except ResourceExhausted as error:
            if not decision.alternatives:
                raise
            decision = decision.with_fallback(error.code)
        else:
            return decision, max(usd or 0.0, reserved_usd)


def _cost_to_reserve(
    decision: Decision, request: Request, reservation: Reservation, costs: CostEstimator
) -> float | None:
    """Returns the most that the decision's path may cost in dollars, None if that is unknown; 0 without a budget."""
    if not reservation.has_budget:
        return 0.0
    usd = costs.most_usd(decision.path, request)
    return None if usd is None else usd + costs.extra_usd(decision)
