"""From an error to how the request ended, and by whose fault, in the words of the closed vocabulary."""

from pointsman_servicekit.errors import PointsmanError

from pointsman_gateway.domain.outcome import OUTCOMES, UNFORESEEN, Fault

_KNOWN_FAULTS = {str(fault): fault for fault in Fault}


def outcome_of(code: str) -> str:
    """The code itself, where it is in the vocabulary."""
    return code if code in OUTCOMES else UNFORESEEN


def fault_of(outcome: str, error: PointsmanError | None) -> Fault:
    """`outcome` is "ok", "routed", "cancelled", "internal" or the code of `error`.

    Who asks too much, or asks for what cannot be, is at fault whatever the code is; beyond that the code tells.
    """
    if error is None:
        return OUTCOMES.get(outcome, Fault.GATEWAY)
    if error.http_status == 429:
        return Fault.LIMITS
    if error.http_status < 500:
        return Fault.CALLER
    told = OUTCOMES.get(error.code, Fault.GATEWAY)
    # An error of ours that has a caller's code has come out of another service, or is a mistake of this one.
    return _KNOWN_FAULTS.get(error.fault) or (Fault.GATEWAY if told is Fault.CALLER else told)
