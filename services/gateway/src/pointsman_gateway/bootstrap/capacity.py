"""Derives how many requests and connections one gateway process accepts at once, unless the settings say it."""

import logging
from dataclasses import dataclass

from pointsman_servicekit.resources import memory_limit, raise_open_files_limit

from pointsman_gateway.settings import Settings

log = logging.getLogger(__name__)

MEGABYTE = 1024 * 1024

PROCESS_BYTES = 256 * MEGABYTE
"""Memory of a gateway without requests: code, models, the classifier. Measured: 205 to 220 MiB."""
REQUEST_BYTES = 128 * 1024
"""Memory for one streamed request besides its body. Measured: 30 KiB; the rest is for clients that read slowly."""
MAX_DERIVED_REQUESTS = 4096
"""More streams would each get too little time of the process's one event loop; start workers or replicas instead."""
MIN_DERIVED_REQUESTS = 64
IDLE_CONNECTIONS = 1024
"""HTTP connections of clients that are between two requests, or whose requests are refused; fewer if the process may
open few files."""
OTHER_FILES = 256
"""Files and sockets that are no connection of a request: logs, listeners, Redis, other services."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """The limits of one gateway process on concurrent requests and connections."""

    requests: int
    http_connections: int
    grpc_connections: int


def derive_capacity(settings: Settings, memory: int | None, open_files: int) -> Capacity:
    """Returns the limits that the settings name, and derives the others.

    `memory` is what all worker processes together may use, in bytes; None if that is unknown. `open_files` is what one
    process may have open. A request needs up to two connections, one to its client and one to its engine.
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
    """Derives the limits from this process's memory and open files; first raises its limit of open files if it may."""
    open_files = raise_open_files_limit()
    capacity = derive_capacity(settings, memory_limit(), open_files)
    log.info("room for %d requests at once, and %d HTTP connections", capacity.requests, capacity.http_connections)
    needed = capacity.requests + capacity.http_connections + capacity.grpc_connections
    if needed > open_files:
        log.warning("these need up to %d open files, and `ulimit -n` allows %d", needed, open_files)
    return capacity
