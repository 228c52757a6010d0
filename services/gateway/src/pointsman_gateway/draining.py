"""Draining at shutdown: load balancers are told first, then no request is admitted, then those in flight may end."""

import logging
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pointsman_servicekit.process import delay_shutdown

from pointsman_gateway.admission import Admission

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DrainTimes:
    """In seconds."""

    delay: float
    """All requests are served though readiness says no, until every load balancer has noticed."""
    timeout: float
    """After that, requests in flight may end."""


async def drain(
    admission: Admission,
    stopped_by: signal.Signals,
    times: DrainTimes,
    report_not_serving: Callable[[], Awaitable[None]],
) -> bool:
    """Returns once no request is in flight, or the time is up: False if some are, which will be cut.

    `report_not_serving` says over gRPC health what /readyz says by `admission.is_ready`. SIGINT (Ctrl-C) has no delay:
    there is no load balancer.
    """
    admission.is_draining = True
    await report_not_serving()
    await delay_shutdown(stopped_by, times.delay)
    admission.is_closed = True
    log.info("draining: %d requests in flight", admission.in_flight)
    is_empty = await admission.wait_until_empty(times.timeout)
    if not is_empty:
        log.warning("draining: %d requests are cut after %g s", admission.in_flight, times.timeout)
    return is_empty
