"""Determines how many concurrent requests and connections a gateway process accepts."""

import logging
from dataclasses import dataclass

from pointsman_servicekit.resources import memory_limit, raise_open_files_limit

from pointsman_gateway.settings import Settings

log = logging.getLogger(__name__)

MEGABYTE = 1024 * 1024

PROCESS_BYTES = 256 * MEGABYTE
"""Bytes of memory assumed for a gateway process that has no requests: code, models and classifier. Measured: 205 to 220
MiB."""
REQUEST_BYTES = 128 * 1024
"""Bytes of memory assumed for each streamed request, without its body. Measured: 30 KiB; more is assumed because the
answer is buffered for clients that read slowly."""
MAX_DERIVED_REQUESTS = 4096
"""Upper limit for the number of concurrent requests that is derived from memory and open files if `max_in_flight` is
not set. One event loop handles all requests of a process; start workers or replicas for more."""
MIN_DERIVED_REQUESTS = 64
IDLE_CONNECTIONS = 1024
"""Number of client connections that a process accepts in addition to one for each concurrent request. They are for
clients that are between two requests or whose requests are rejected. The number is lower if the process may open few
files."""
OTHER_FILES = 256
"""Number of open files and sockets that are reserved for purposes other than requests: logs, listeners, Redis, other
services."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """The maximum numbers of concurrent requests, HTTP connections and gRPC connections of one gateway process."""

    requests: int
    http_connections: int
    grpc_connections: int


def derive_capacity(settings: Settings, memory: int | None, open_files: int) -> Capacity:
    """Returns the maximum numbers of concurrent requests and connections of a gateway process.

    They are those in `settings`, or for settings that are not set they are derived from `memory` and `open_files`.
    `memory` is the number of bytes that all worker processes together may use; None if it is unknown. `open_files` is
    the number of files that one process may open.
    """
    requests = settings.max_in_flight
    by_files = max(MIN_DERIVED_REQUESTS, (open_files - OTHER_FILES) // 4)
    if requests is None:
        room = MAX_DERIVED_REQUESTS
        if memory is not None:
            fixed = PROCESS_BYTES + settings.buffer_megabytes * MEGABYTE
            room = (memory // settings.workers - fixed) // REQUEST_BYTES
        requests = max(MIN_DERIVED_REQUESTS, min(MAX_DERIVED_REQUESTS, room, by_files))
    connections = requests + min(IDLE_CONNECTIONS, by_files)
    return Capacity(requests, settings.http_connections or connections, settings.grpc_connections or connections)


def find_capacity(settings: Settings) -> Capacity:
    """Returns and logs the maximum numbers of concurrent requests and connections of this process.

    First raises the process's soft limit of open files to the hard limit, if the system allows it. Logs a warning if
    the process may not open enough files for these numbers.
    """
    open_files = raise_open_files_limit()
    capacity = derive_capacity(settings, memory_limit(), open_files)
    log.info("room for %d requests at once, and %d HTTP connections", capacity.requests, capacity.http_connections)
    needed = capacity.requests + capacity.http_connections + capacity.grpc_connections
    if needed > open_files:
        log.warning("these need up to %d open files, and `ulimit -n` allows %d", needed, open_files)
    return capacity
