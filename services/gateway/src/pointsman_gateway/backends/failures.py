"""How an engine fails, in one place: what is told, whether it is held against the engine, and what may help.

code                     held against it   before the first token
engine_refused           no, the caller's  told at once
context_length_exceeded  no, the caller's  told at once
engine_overloaded        no (429)          another engine; this one gets the rest that it asks for
adapter_not_resident     no (404)          an engine that holds the adapter, or it is loaded; twice at most
engine_error             yes, but for 404  another engine; after 502, 503 and 504 the same again where it is alone
engine_unavailable       yes               another engine, or the same again where it is alone
connect_timeout          yes               another engine
first_token_timeout      yes               another engine
gap_timeout              yes               nothing: the answer has begun
"""

from pointsman_servicekit.errors import DeadlineExceeded, InvalidArgument, PointsmanError, Unavailable
from pointsman_servicekit.logs import mask_secrets

from pointsman_gateway.backends.call import Call

OVERLOADED = "engine_overloaded"
ERROR = "engine_error"
UNAVAILABLE = "engine_unavailable"
CONNECT_TIMEOUT = "connect_timeout"
FIRST_TOKEN_TIMEOUT = "first_token_timeout"
GAP_TIMEOUT = "gap_timeout"
NOT_RESIDENT = "adapter_not_resident"

LONGEST_REST = 30.0
"""Seconds that an engine may ask to be left alone; what it says beyond them is not believed."""


class EngineFailed(Unavailable):
    """It did not answer, by its own fault."""


class Innocent(EngineFailed):
    """It did not answer, and is not to blame: it has too much to do, or does not know what was asked for."""


class NotThere(Innocent):
    """It does not know what was asked for."""


class NotResident(Innocent):
    """An engine does not hold the adapter's version, which by the last word of its lora-server it did; or none does."""


class NotLoaded(Unavailable):
    """The adapter's version is on no engine, and could not be loaded."""

    def __init__(self, message: str, waited: float = 0.0, retry_after: float = 5.0) -> None:
        """`waited`: seconds that the request has lost with it."""
        super().__init__(message, code=NOT_RESIDENT, retry_after=retry_after)
        self.waited = waited


class NotLoadedInTime(DeadlineExceeded):
    """The request's own deadline has passed while its adapter was being loaded."""

    def __init__(self, waited: float) -> None:
        super().__init__("the request's time ran out while its adapter was loaded", code="deadline_exceeded")
        self.waited = waited


class Passing(EngineFailed):
    """It did not answer, and may do so a moment later."""


def counts(error: PointsmanError) -> bool:
    """Whether it is held against the engine."""
    return isinstance(error, Unavailable) and not isinstance(error, Innocent)


def refused(
    call: Call, status: int, message: str, param: str | None = None, retry_after: str | None = None
) -> PointsmanError:
    """An engine's answer that is no stream; `retry_after` is the header as it came, `param` what the error names."""
    if status in (400, 413, 422):
        if param in ("input_tokens", "prompt"):
            return InvalidArgument(message, code="context_length_exceeded", param="messages")
        return InvalidArgument(message, code="engine_refused", param=param)
    told = f"engine '{call.engine}' answered {status}: {mask_secrets(message)}"  # it may quote the key that it got
    if status == 429:
        return Innocent(told, code=OVERLOADED, retry_after=_seconds(retry_after))
    if status == 404:
        return NotThere(told, code=ERROR, retry_after=1.0)
    failed = Passing if status in (502, 503, 504) else EngineFailed
    return failed(told, code=ERROR, retry_after=_seconds(retry_after) or 1.0)


def not_resident(engine: str, version: str) -> NotResident:
    return NotResident(f"engine '{engine}' does not hold adapter '{version}'", code=NOT_RESIDENT, retry_after=1.0)


def broke_off(call: Call, why: str) -> Unavailable:
    """It cannot be reached, or went away before the end."""
    return Passing(f"engine '{call.engine}' failed: {why}", code=UNAVAILABLE, retry_after=1.0)


def no_connection_in_time(call: Call) -> Unavailable:
    return _late(call, CONNECT_TIMEOUT, f"no connection within {call.timeouts.connect:g} s")


def no_first_token_in_time(call: Call) -> Unavailable:
    return _late(call, FIRST_TOKEN_TIMEOUT, f"no first token within {call.timeouts.first_token:g} s")


def no_more_in_time(call: Call) -> Unavailable:
    return _late(call, GAP_TIMEOUT, f"nothing more within {call.timeouts.gap:g} s")


def out_of_time() -> DeadlineExceeded:
    """The request's own deadline has passed."""
    return DeadlineExceeded("the request's time ran out", code="deadline_exceeded")


def _late(call: Call, code: str, why: str) -> Unavailable:
    return EngineFailed(f"engine '{call.engine}' failed: {why}", code=code, retry_after=1.0)


def _seconds(retry_after: str | None) -> float | None:
    """Of a Retry-After header; one that gives a date says nothing here."""
    try:
        seconds = float(retry_after or "")
    except ValueError:
        return None
    return min(seconds, LONGEST_REST) if seconds > 0 else None
