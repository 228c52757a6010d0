"""Maps errors to outcomes and faults, which have a closed vocabulary."""

from pointsman_servicekit.errors import PointsmanError

from pointsman_gateway.domain.outcome import OUTCOMES, UNFORESEEN, Fault

_FAULTS = frozenset(fault.value for fault in Fault)
CALLER, LIMITS, GATEWAY = Fault.CALLER.value, Fault.LIMITS.value, Fault.GATEWAY.value


def outcome_of(code: str) -> str:
    """The code if it is in the vocabulary, else `UNFORESEEN`."""
    return code if code in OUTCOMES else UNFORESEEN


def fault_of(outcome: str, error: PointsmanError | None) -> str:
    """A `Fault`'s value. `outcome` is "ok", "routed", "cancelled", "internal" or the code of `error`.

    Errors with an HTTP status below 500 are the client's fault, or that of its limits. Otherwise the code decides.
    """
    if error is None:
        return OUTCOMES.get(outcome, GATEWAY)
    if error.http_status == 429:
        return LIMITS
    if error.http_status < 500:
        return CALLER
    if error.fault in _FAULTS:
        return error.fault
    fault = OUTCOMES.get(error.code, GATEWAY)
    # A server error with a client's code comes from another service, or is a bug in this one.
    return GATEWAY if fault == CALLER else fault
