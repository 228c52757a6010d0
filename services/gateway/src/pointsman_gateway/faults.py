"""From an error to how the request ended, and by whose fault, in the words of the closed vocabulary."""

from pointsman_servicekit.errors import PointsmanError

from pointsman_gateway.domain.outcome import OUTCOMES, UNFORESEEN, Fault

_FAULTS = frozenset(fault.value for fault in Fault)
CALLER, LIMITS, GATEWAY = Fault.CALLER.value, Fault.LIMITS.value, Fault.GATEWAY.value


def outcome_of(code: str) -> str:
    """The code itself, where it is in the vocabulary."""
    return code if code in OUTCOMES else UNFORESEEN


def fault_of(outcome: str, error: PointsmanError | None) -> str:
    """A `Fault`'s value. `outcome` is "ok", "routed", "cancelled", "internal" or the code of `error`.

    Who asks too much, or asks for what cannot be, is at fault whatever the code is; beyond that the code tells.
    """
    if error is None:
        return OUTCOMES.get(outcome, GATEWAY)
    if error.http_status == 429:
        return LIMITS
    if error.http_status < 500:
        return CALLER
    if error.fault in _FAULTS:
        return error.fault
    told = OUTCOMES.get(error.code, GATEWAY)
    # An error of ours that has a caller's code has come out of another service, or is a mistake of this one.
    return GATEWAY if told == CALLER else told
