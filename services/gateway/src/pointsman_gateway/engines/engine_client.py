"""The interface of clients that call engines: the request, the transfer of its answer, and its possible errors.

The table shows whether an error counts as a failure for the engine's circuit breaker, and what the gateway does next.

code                     counts as a failure        what follows before the first token
engine_refused           no (client's fault)        reported at once
context_length_exceeded  no (client's fault)        reported at once
engine_overloaded        no (429, 529)              another engine; this one gets no requests as long as it asks for
adapter_not_resident     no (404)                   another engine with the adapter, or a new load; at most twice
engine_error             yes, except 404            another engine; after 502, 503, 504 the same if there is no other;
                                                    if all answer 404, clients get model_not_served
engine_unavailable       yes                        another engine, or the same one if there is no other
connect_timeout          yes                        another engine
first_token_timeout      yes                        another engine
stream_idle_timeout      yes                        nothing: the answer has begun
deadline_exceeded        see `STALL_SECONDS`        reported at once
"""

import logging
from collections.abc import Sequence
from math import inf
from typing import Protocol

import msgspec
from pointsman_servicekit.errors import DeadlineExceeded, InvalidArgument, NotFound, PointsmanError, Unavailable

from pointsman_gateway.config.engine_config import Timeouts
from pointsman_gateway.config.providers import DEFAULT_API, EngineApi
from pointsman_gateway.domain import ANONYMOUS, Caller, Message, Operation, Sampling
from pointsman_gateway.ports import CallRecord, ChunkSink
from pointsman_gateway.redaction import MAX_PARAM_CHARACTERS, shown_error

log = logging.getLogger(__name__)

DEFAULT_TIMEOUTS = Timeouts()

STALL_SECONDS = 5.0
"""Seconds after which a call to a silent engine counts as the engine's failure.

The rule applies to a call that the client has cancelled or whose deadline has passed. The engine has failed if the call
lasted this long, and the engine answered none of this gateway's calls in that time.
"""

MAX_COLLECTED_BYTES = 64 * 1024 * 1024
"""Maximum number of bytes of an engine's answer that is kept in memory until it is complete; a longer answer fails.

Answers are kept if they are not streamed, are validated first, or are repeated by the last events of the client's API.
The longest answers of today's models, of 128,000 tokens, have 30 MB of events.
"""

OVERLOADED = "engine_overloaded"
ERROR = "engine_error"
UNAVAILABLE = "engine_unavailable"
CONNECT_TIMEOUT = "connect_timeout"
FIRST_TOKEN_TIMEOUT = "first_token_timeout"
STREAM_IDLE_TIMEOUT = "stream_idle_timeout"
NOT_SERVED = "model_not_served"
NOT_RESIDENT = "adapter_not_resident"

KEY_CODES = ("invalid_api_key", "API_KEY_INVALID")
"""Error codes in an engine's response that mean a wrong API key; Google sends the second one with status 400."""

MAX_COOLDOWN_SECONDS = 30.0
"""Maximum number of seconds for which an engine gets no requests; a longer Retry-After of the engine is cut to this."""


class CompletionRequest(msgspec.Struct, frozen=True):
    """A chat or text completion to request from an engine, before the engine is chosen."""

    messages: Sequence[Message]
    sampling: Sampling
    deadline: float
    """The time by which the call must end, in seconds on the event loop's clock."""
    stall_seconds: float = STALL_SECONDS
    """Seconds after which a call to a silent engine counts as the engine's failure (see `STALL_SECONDS`). `Hedging`
    sets it to its own delay."""
    operation: Operation = "chat"
    path: str = ""
    as_a_whole: bool = False
    """Whether chunks that arrive together may be joined to one."""
    caller: Caller = ANONYMOUS
    max_bytes: float = inf
    """Maximum size of the answer as the engine sends it: `MAX_COLLECTED_BYTES` if the gateway keeps the answer in
    memory until it is complete, otherwise infinite."""
    record: CallRecord | None = None
    """The receiver of reports about calls that got the prompt but whose answer is not used; None: nobody needs them."""


class EngineRequest(msgspec.Struct, frozen=True):
    """A chat or text completion to request from one chosen engine, with the engine's URL, model name and API."""

    engine: str
    """The engine's name (`Engine.name`), for error messages and metrics."""
    url: str
    """The engine's base URL, to which the path of the endpoint is appended."""
    model: str
    """The engine's own name for the base model or the adapter."""
    messages: Sequence[Message]
    sampling: Sampling
    deadline: float
    """The time by which the call must end, in seconds on the event loop's clock."""
    api: EngineApi = DEFAULT_API
    timeouts: Timeouts = DEFAULT_TIMEOUTS
    operation: Operation = "chat"
    trace_headers: str = ""
    """HTTP header lines with the request's trace context; empty without tracing."""
    as_a_whole: bool = False
    max_bytes: float = inf
    """Maximum size of the answer as the engine sends it; infinite unless the gateway keeps the answer in memory until
    it is complete."""


class Transfer(Protocol):
    """Interface of one call to an engine in progress: an `EngineClient` reads the answer and pushes it to a sink."""

    @property
    def is_sent(self) -> bool:
        """Returns whether the request, or a part of it, was sent to the engine."""
        ...

    def pause(self) -> None:
        """Stops pushing chunks to the sink until `resume`. Once the connection's buffer is full, the engine cannot send
        more.
        """
        ...

    def resume(self) -> None: ...

    def close(self) -> None:
        """Stops pushing to the sink for good; the sink's method `ended` is not called afterwards. Idempotent.

        If the answer is not complete, this also stops the engine's work on it.
        """
        ...


class EngineClient(Protocol):
    """Interface of clients that send requests to engines; `HttpEngineClient` and `LiteLLMClient` implement it."""

    def send(self, request: EngineRequest, sink: ChunkSink) -> Transfer:
        """Sends a request to its engine, and pushes the answer to `sink`, beginning in a later iteration of the
        event loop.

        At the end calls `sink.ended` with None if the answer is complete, or else with the error: InvalidArgument if
        the request is at fault, otherwise Unavailable or DeadlineExceeded. The last chunk holds only the token usage.

        Raises InvalidArgument if the engine's API cannot express the request, and Unavailable if sending fails at
        once.
        """
        ...


class EngineFailed(Unavailable):
    """An engine has failed to answer a request, or to complete its answer."""


class NotEngineFault(EngineFailed):
    """An engine has not answered, but its circuit breaker does not count this as a failure; for example, it is
    overloaded.
    """


class NotServed(NotEngineFault):
    """The engine answered 404: it does not serve the model or adapter, or its configured URL is wrong."""


class NotResident(NotEngineFault):
    """No ready engine has loaded the adapter version, or the called engine has evicted it since its last report."""


class NotLoaded(Unavailable):
    """No engine has loaded the adapter version, and an attempt to load it has failed."""

    def __init__(self, message: str, waited: float = 0.0, retry_after: float = 5.0) -> None:
        """Takes `waited`, the seconds that the request waited for the load, and `retry_after`, the seconds after which
        the client may send the request again.
        """
        super().__init__(message, code=NOT_RESIDENT, retry_after=retry_after)
        self.waited = waited


class NotLoadedInTime(DeadlineExceeded):
    """The request's deadline passed while an engine was loading the adapter."""

    def __init__(self, waited: float) -> None:
        super().__init__("the request's time ran out while its adapter was loaded", code="deadline_exceeded")
        self.waited = waited


class TransientFailure(EngineFailed):
    """An engine has failed, but may answer if the request is sent to it again."""


def counts_against_engine(error: PointsmanError) -> bool:
    return isinstance(error, Unavailable) and not isinstance(error, NotEngineFault)


def refused(
    request: EngineRequest,
    status: int,
    message: str,
    *,
    param: str | None = None,
    retry_after: float | None = None,
    code: str = "",
    location: str = "",
) -> PointsmanError:
    """Returns the error for an engine's error response, by its HTTP status:
    * 400, 413 and 422: InvalidArgument, but EngineFailed if `code` is one of `KEY_CODES`;
    * 404: NotServed;
    * 429 and 529 (overloaded): NotEngineFault;
    * 502 to 504: TransientFailure;
    * any other: EngineFailed.

    `message`, `param` and `code` are those in the response's body, `location` is the target of a redirect, and
    `retry_after` is in seconds.
    """
    message, location = shown_error(message), shown_error(location, 200)
    param = param and shown_error(param, MAX_PARAM_CHARACTERS)
    if status in (400, 413, 422) and code not in KEY_CODES:
        # Azure writes "prompt" for one that its content filter has rejected.
        is_too_long = param in ("input_tokens", "prompt") and code != "content_filter"
        if is_too_long or code == "context_length_exceeded":
            return InvalidArgument(message, code="context_length_exceeded", param="messages")
        if "--tool-call-parser" in message:
            message = f"{message}; for an engine that a lora-server starts, set POINTSMAN_LORA_TOOL_CALL_PARSER"
        return InvalidArgument(message, code="engine_refused", param=param)
    text = f"engine '{request.engine}' answered {status}: {message}"
    if 300 <= status < 400:
        text = f"engine '{request.engine}' answered {status}, a redirect to '{location}', which is not followed"
    elif status in (401, 403) or code in KEY_CODES:
        text = f"{text}; check its api_key_env and provider"
    if status in (429, 529):  # 529 is Anthropic's
        return NotEngineFault(text, code=OVERLOADED, retry_after=_cut(retry_after))
    if status == 404:
        text = f"{text}; check its url, and the `upstream` of its model"
        return NotServed(text, code=ERROR, retry_after=1.0)
    failed = TransientFailure if status in (502, 503, 504) else EngineFailed
    return failed(text, code=ERROR, retry_after=_cut(retry_after) or 1.0)


def retryable(error: NotServed) -> NotEngineFault:
    """Converts an engine's 404 to an error that tells clients to retry, because another engine may serve the model
    later.
    """
    return NotEngineFault(error.message, code=ERROR, retry_after=1.0)


def not_served(error: NotServed) -> NotFound:
    """Converts an engine's 404 to a NotFound for the client, since no engine and no other path can answer."""
    failure = NotFound(error.message, code=NOT_SERVED, param="model")
    failure.fault = "engine"
    return failure


def not_resident(engine: str, version: str) -> NotResident:
    return NotResident(f"engine '{engine}' does not hold adapter '{version}'", code=NOT_RESIDENT, retry_after=1.0)


def broke_off(request: EngineRequest, why: str) -> Unavailable:
    """Returns the error for an engine that cannot be reached, or whose answer is cut off or invalid.

    `why` is the cause, as text for the error's message.
    """
    return TransientFailure(f"engine '{request.engine}' failed: {shown_error(why)}", code=UNAVAILABLE, retry_after=1.0)


def unreadable(request: EngineRequest, bug: Exception) -> Unavailable:
    """Logs an unexpected exception of the gateway's own code for calling an engine, and returns the error for the
    client.

    `bug` is the exception; it was raised while `request` was sent or its answer was read.
    """
    log.error("engine %s: its answer cannot be read", request.engine, exc_info=bug)
    return broke_off(request, f"its answer cannot be read ({type(bug).__name__})")


def too_long(request: EngineRequest) -> Unavailable:
    """Returns the error for an answer of more than `request.max_bytes` that has to be kept in memory until its end."""
    return broke_off(request, f"its answer has more than {request.max_bytes / 2**20:g} MiB, and is kept until its end")


def no_connection_in_time(request: EngineRequest) -> Unavailable:
    return _late(request, CONNECT_TIMEOUT, f"no connection within {request.timeouts.connect_seconds:g} s")


def no_first_token_in_time(request: EngineRequest) -> Unavailable:
    return _late(request, FIRST_TOKEN_TIMEOUT, f"no first token within {request.timeouts.first_token_seconds:g} s")


def no_more_in_time(request: EngineRequest) -> Unavailable:
    return _late(request, STREAM_IDLE_TIMEOUT, f"nothing more within {request.timeouts.stream_idle_seconds:g} s")


def out_of_time() -> DeadlineExceeded:
    """Returns the error for a request whose deadline has passed."""
    return DeadlineExceeded("the request's time ran out", code="deadline_exceeded")


def _late(request: EngineRequest, code: str, why: str) -> Unavailable:
    return EngineFailed(f"engine '{request.engine}' failed: {why}", code=code, retry_after=1.0)


def _cut(retry_after: float | None) -> float | None:
    return min(retry_after, MAX_COOLDOWN_SECONDS) if retry_after else None
