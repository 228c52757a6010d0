"""Shutdown of the gateway: it first reports not ready, then admits no more requests, and waits for those in flight."""

import logging
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pointsman_servicekit.process import delay_shutdown

from pointsman_gateway.pipeline.admission import Admission

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DrainTimes:
    """How long each of the two steps of a shutdown takes at most, in seconds: `delay` first, then `timeout`."""

    delay: float
    """Seconds in which the gateway reports that it is not ready but still serves requests, so that load balancers
    notice.
    """
    timeout: float
    """Maximum seconds to wait for the requests in progress to end, after the gateway has stopped to admit requests."""


async def drain(
    admission: Admission,
    stopped_by: signal.Signals,
    times: DrainTimes,
    report_not_serving: Callable[[], Awaitable[None]],
) -> bool:
    """Shuts down in steps: reports "not ready", admits no requests after `times.delay`, waits for those in progress.

    Returns True if all requests ended within `times.timeout` seconds; otherwise the caller has to abort the rest.
    `report_not_serving` sets gRPC's health status; /readyz follows `admission.is_ready`. After SIGINT (Ctrl-C) there is
    no delay.
    """
    admission.is_draining = True
    await report_not_serving()
    await delay_shutdown(stopped_by, times.delay)
    admission.is_closed = True
    log.info("draining: %d requests in progress", admission.in_flight)
    is_empty = await admission.wait_until_empty(times.timeout)
    if not is_empty:
        log.warning("draining: %d requests are aborted after %g s", admission.in_flight, times.timeout)
    return is_empty
