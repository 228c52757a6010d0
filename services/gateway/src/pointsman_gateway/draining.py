"""The way out: first nobody is sent here any more, then nobody is let in, then what has begun may end."""

import logging
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pointsman_servicekit.process import delay_shutdown

from pointsman_gateway.admission import Admission

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Farewell:
    """How much time there is for it, in seconds."""

    notice: float
    """In which all is served though readiness says no: until every balancer has heard."""
    grace: float
    """In which what is in flight may end."""


async def drain(
    admission: Admission, told_by: signal.Signals, farewell: Farewell, stop_calling: Callable[[], Awaitable[None]]
) -> bool:
    """Returns once nobody is in the house, or the time is up: False where somebody is left, who will be cut.

    `stop_calling` tells over gRPC health that requests are no longer welcome; `admission.welcomes` is the same for
    /readyz. Who presses Ctrl-C has no balancer that must hear of it: SIGINT goes without notice.
    """
    admission.leaving = True
    await stop_calling()
    await delay_shutdown(told_by, farewell.notice)
    admission.closing = True
    log.info("leaving: %d in flight", admission.in_flight)
    emptied = await admission.emptied(farewell.grace)
    if not emptied:
        log.warning("leaving: %d are cut, %g s were not enough", admission.in_flight, farewell.grace)
    return emptied
