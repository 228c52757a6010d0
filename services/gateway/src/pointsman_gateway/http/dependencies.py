"""The parts of the gateway that HTTP routes use, the caller and deadline of a request, and functions that answer it."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from fastapi import Request
from pointsman_servicekit.buffer_budget import BufferedBytesBudget
from pointsman_servicekit.errors import InvalidArgument
from pointsman_servicekit.keys.administration import Administration
from pointsman_servicekit.metrics_page import MetricsPage, StepwiseMetrics, encode_page
from prometheus_client import CollectorRegistry
from starlette.responses import Response
from starlette.types import Scope

from pointsman_gateway import domain
from pointsman_gateway.codec.headers import cache_mode
from pointsman_gateway.console.stage import Console
from pointsman_gateway.http.asgi_answer import CALLER, AsgiAnswer, BatchAnswer
from pointsman_gateway.http.encoding import AnswerEncoder
from pointsman_gateway.pipeline.pipeline import ConfigSnapshot, Pipeline
from pointsman_gateway.pipeline.reload import ConfigHistory, ReloadStatus
from pointsman_gateway.ports import Tenancy
from pointsman_gateway.request_log.feedback_store import EvaluationStore, FeedbackStore
from pointsman_gateway.tenancy.login import Login

HAS_RECEIPT = "pointsman.has_receipt"
"""Key in the ASGI scope, set when a request is passed to the pipeline, which then records the receipt itself."""


class Configuration(Protocol):
    """Interface to the active configuration, its status and its history; `ConfigReloader` implements it."""

    @property
    def current(self) -> ConfigSnapshot: ...

    @property
    def status(self) -> ReloadStatus: ...

    @property
    def history(self) -> ConfigHistory: ...


class Workers(Protocol):
    """Interface to all gateway processes on the same ports, this one included; `bootstrap.workers` implements it."""

    async def metrics_page(self, format: str) -> MetricsPage:
        """Returns one page with the metrics of all gateway processes; `format` is a result of
        `metrics_page.format_of`.

        A process that does not answer is included with its last known values. Raises Unavailable if the supervisor
        of the processes does not answer.
        """
        ...

    async def states(self) -> list[dict[str, Any]]:
        """Returns for each process {"worker": NUMBER, "pid", "restarts", "revision", "problem", "in_flight"}.

        The last three are missing if the process does not answer. Raises Unavailable if the supervisor of the processes
        does not answer.
        """
        ...


@dataclass(frozen=True, slots=True)
class HttpDependencies:
    """The parts of the gateway that the HTTP server uses."""

    pipeline: Pipeline
    tenancy: Tenancy
    feedback: FeedbackStore
    evaluations: EvaluationStore
    configuration: Configuration
    registry: CollectorRegistry
    request_timeout: float
    budget: BufferedBytesBudget
    """Limits the bytes of request bodies in memory; shared with the gRPC server."""
    console: Console | None = None
    """The console; None if it is not served."""
    has_metrics_port: bool = False
    """Whether metrics and schema are served on a port of their own, and not with the API."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose web pages may call the API; ("*",) allows all, and () allows none."""
    workers: Workers | None = None
    """All processes of this gateway, if there are several; None if this is the only one."""
    login: Callable[[], Login | None] = lambda: None
    """Returns the login of the active configuration; None if it has no single sign-on."""
    administration: Administration | None = None
    """Administration of keys and tenants; None without Redis, because then there are no keys."""

    async def build_metrics_page(self, format: str) -> MetricsPage:
        """Returns one page with the metrics of all gateway processes, encoded in a thread; `format` is a result of
        `metrics_page.format_of`.

        Raises Unavailable if there are several processes, and their supervisor does not answer.
        """
        if self.workers:
            return await self.workers.metrics_page(format)
        metrics = StepwiseMetrics(self.registry, asyncio.get_running_loop())
        return await asyncio.to_thread(encode_page, format, metrics)

    async def states_of_workers(self) -> list[dict[str, Any]]:
        """Returns the state of each gateway process as an object with its number, pid, restarts and configuration;
        empty if there is only one process.

        Raises Unavailable if the supervisor of the processes does not answer.
        """
        return await self.workers.states() if self.workers else []


async def respond(request: Request, decoded: domain.Request, encoder: AnswerEncoder, streams: bool) -> Response:
    """Returns a response that runs `decoded`, the request as the pipeline expects it, and sends the answer in the
    format of `encoder`.

    `streams` says whether the answer is a stream. The caller and cache mode in `decoded` are replaced by the caller and
    cache mode of the HTTP request, and its `as_a_whole` by `not streams`.
    """
    decoded = _with_headers(request, decoded, streams)
    return AsgiAnswer(dependencies_of(request).pipeline, decoded, encoder, streams)


async def respond_to_all(
    request: Request, decoded: Sequence[domain.Request], choices: int, encoder: AnswerEncoder, streams: bool
) -> Response:
    """Returns one response to an HTTP request with several prompts. `decoded` has a request for each prompt, each
    with `choices` choices.

    The answer is sent in the format of `encoder`, as a stream if `streams` is true.
    """
    requests = [_with_headers(request, each, streams) for each in decoded]
    return BatchAnswer(dependencies_of(request).pipeline, requests, choices, encoder, streams)


def _with_headers(request: Request, decoded: domain.Request, streams: bool) -> domain.Request:
    cache = cache_mode(request.headers.get("cache-control", "").encode("latin-1"))
    return replace(decoded, caller=caller_of_request(request), cache=cache, as_a_whole=not streams)


def caller_in(scope: Scope) -> domain.Caller:
    """Returns the caller that was identified for the request with this ASGI scope; `ANONYMOUS` if there is none."""
    caller: domain.Caller = scope.get(CALLER, domain.ANONYMOUS)
    return caller


def caller_of_request(request: Request) -> domain.Caller:
    """Returns the caller of a request to a path that needs a key; the key was checked before the body was read."""
    caller: domain.Caller = request.scope[CALLER]
    return caller


def dependencies_of(request: Request) -> HttpDependencies:
    dependencies: HttpDependencies = request.app.state.dependencies
    return dependencies


def deadline_of_request(request: Request) -> float:
    """Returns the request's deadline, in seconds on the event loop's clock.

    The header x-request-timeout sets it, up to the gateway's `request_timeout` from now, which applies without a header
    too. Raises InvalidArgument if the header is no number.
    """
    header = request.headers.get("x-request-timeout", "").encode("latin-1")
    return deadline_after(header, dependencies_of(request).request_timeout)


def deadline_after(header: bytes | None, max_seconds: float) -> float:
    """Converts an x-request-timeout header to a deadline, in seconds on the event loop's clock.

    The deadline is at most `max_seconds` from now; without a header, it is `max_seconds` from now. Raises
    InvalidArgument if the header is no number.
    """
    return asyncio.get_running_loop().time() + parse_timeout(header, max_seconds)


def parse_timeout(header: bytes | None, max_seconds: float) -> float:
    """Returns the seconds in an x-request-timeout header, at most `max_seconds`; without a header, `max_seconds`.

    Raises InvalidArgument if the header is no number.
    """
    if not header:
        return max_seconds
    try:
        return min(max_seconds, float(header))
    except ValueError:
        raise InvalidArgument(
            f"x-request-timeout is {header[:50].decode('latin-1')!r}; write seconds",
            code="bad_parameter",
            param="x-request-timeout",
        ) from None
