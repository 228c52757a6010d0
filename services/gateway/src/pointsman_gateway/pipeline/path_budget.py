"""Reserves the cost of the path that a decision chose, or of the first alternative that the caller's budget allows."""

from dataclasses import replace

from pointsman_servicekit.errors import ResourceExhausted

from pointsman_gateway.domain import Decision, Request
from pointsman_gateway.metering.expected_cost import CostEstimator
from pointsman_gateway.ports import Reservation


async def reserve_cost(
    decision: Decision, request: Request, reservation: Reservation, costs: CostEstimator
) -> tuple[Decision, float]:
    """Reserves dollars of the caller's budget for the decision's path, or for the first alternative that the budget
    allows.

    The amount is an upper estimate of the path's cost; a path of unknown cost is not allowed. Returns the decision for
    the path that is paid, and the reserved dollars, 0 for a caller without a budget. Raises ResourceExhausted if the
    budget allows no path, and Unavailable if concurrent requests keep taking the free amount (`Reservation.afford`).
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
            decision = _with_expected_cost(decision.with_fallback(error.code), request, costs)


async def reserve_later_cost(
    decision: Decision, request: Request, reservation: Reservation, costs: CostEstimator, reserved_usd: float
) -> tuple[Decision, float]:
    """Reserves dollars for the next path of a request, after an earlier path has failed or its answer was rejected.

    `reserved_usd` are reserved already, so only what the path may cost beyond them is added. If the budget does not
    allow that, tries the decision's alternatives. Returns the decision for the path that is paid, and all dollars that
    are reserved then. Raises ResourceExhausted if the budget allows no path, and Unavailable as `reserve_cost` does.
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
            return _with_expected_cost(decision, request, costs), max(usd or 0.0, reserved_usd)


def _with_expected_cost(decision: Decision, request: Request, costs: CostEstimator) -> Decision:
    """Returns the decision with `expected_cost_usd` computed for its present path."""
    usd = costs.usd(decision.path, request, is_embedded=decision.vector is not None)
    return replace(decision, expected_cost_usd=usd)


def _cost_to_reserve(
    decision: Decision, request: Request, reservation: Reservation, costs: CostEstimator
) -> float | None:
    """Returns the maximum dollars that the request may cost on the decision's path; None if they are unknown, 0 if the
    caller has no budget.
    """
    if not reservation.has_budget:
        return 0.0
    return costs.most_usd(decision.path, request, is_embedded=decision.vector is not None)
