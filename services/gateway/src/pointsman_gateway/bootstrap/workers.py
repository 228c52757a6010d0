"""Runs several gateway processes (workers) on the same ports, under a supervisor process that merges their metrics."""

import asyncio
import os
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from pointsman_servicekit.merged_metrics import Combine, Dump, MergedMetrics, dump_metrics
from pointsman_servicekit.metrics_page import MetricsPage, MetricsPages, decode_page, encode_page
from pointsman_servicekit.process import wait_for_stop_signal
from pointsman_servicekit.workers import MERGED_ANSWER_TIMEOUT_SECONDS, Supervisor, Worker, WorkerPeer
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from pointsman_gateway.bootstrap.app import GatewayComponents
from pointsman_gateway.settings import Settings

GAUGES: Mapping[str, Combine] = {
    "pointsman_config_revision": sum,  # the number of workers that use it
    "pointsman_in_flight": sum,
    "pointsman_max_in_flight": sum,
    "pointsman_queue_depth": sum,
    "pointsman_quota_leases": sum,
    "pointsman_request_log_waiting": sum,
    "pointsman_wal_bytes": sum,
    "pointsman_wal_feedback_bytes": sum,
    "pointsman_engine_in_flight": sum,
    "pointsman_engine_ready": min,
    "pointsman_redis_up": min,
    "pointsman_cache_redis_up": min,
}
"""Name of a gauge metric -> function that combines the values of all workers to one value. For a gauge that is not
listed, the largest value is exported."""
KILL_AFTER_SECONDS = 10.0
"""Seconds after `shutdown_delay` and `shutdown_timeout` until the supervisor kills a worker that has not ended."""


class Siblings:
    """Lets one worker process read the metrics and states of all workers, from the supervisor. Implements `Workers`."""

    def __init__(self, supervisor: WorkerPeer, components: GatewayComponents) -> None:
        self._supervisor, self._components = supervisor, components
        supervisor.handlers |= {"metrics": self._metrics, "state": self._state}

    async def report_serving(self) -> None:
        await self._supervisor.ask("serving")

    async def metrics_page(self, format: str) -> MetricsPage:
        """Returns the merged metrics of all workers as a page; `format` is one of Prometheus's media types for metrics.

        Raises Unavailable if the supervisor does not answer.
        """
        text, expires = await self._supervisor.ask("page", format, MERGED_ANSWER_TIMEOUT_SECONDS)
        return await asyncio.to_thread(decode_page, format, text, expires)

    async def states(self) -> list[dict[str, Any]]:
        """Returns a mapping for each worker, with these keys; the last three are missing if it does not answer:

        * "worker": its number, "pid": its process id, "restarts": how often its process was replaced;
        * "revision": that of its configuration, "problem": why the current configuration files were rejected, or "";
        * "in_flight": its requests in progress.

        Raises Unavailable if the supervisor does not answer.
        """
        states: list[dict[str, Any]] = await self._supervisor.ask("states", None, MERGED_ANSWER_TIMEOUT_SECONDS)
        return states

    async def _metrics(self, _: Any) -> Dump:
        return dump_metrics(self._components.registry)

    async def _state(self, _: Any) -> dict[str, Any]:
        status = self._components.reloader.status
        in_flight = self._components.pipeline.admission.in_flight
        return {"revision": status.revision, "problem": status.problem, "in_flight": in_flight}


class _Group:
    """The worker processes of this gateway: starts them under a supervisor, and merges their metrics to one page."""

    def __init__(self, environment: Mapping[str, str], workers: int) -> None:
        self._metrics = MergedMetrics(GAUGES)
        self._dumps: dict[int, Dump] = {}
        """The last metrics of each worker, by its number."""
        program = (sys.executable, "-m", "pointsman_gateway")
        self.supervisor = Supervisor(program, environment, workers, self._retire)
        self._pages = MetricsPages(self._build_page)
        self.supervisor.handlers |= {"page": self._page, "states": self._states}

    def _retire(self, worker: Worker) -> None:
        self._metrics.retire(self._dumps.pop(worker.number, ()))

    async def _page(self, format: str) -> tuple[str, float]:
        """Returns the merged metrics of all workers as a text, and the `time.monotonic` at which the text expires.

        Until then all workers get the same text, so that a counter never falls from one scrape to the next.
        """
        found = await self._pages.find(format)
        return found.page.text.decode(), found.expires

    async def _build_page(self, format: str) -> MetricsPage:
        self._dumps |= {worker.number: dump for worker, dump in await self.supervisor.ask_all("metrics")}
        return encode_page(format, self._metrics.page(self._dumps.values(), self._own_metrics()))

    async def _states(self, _: Any) -> list[dict[str, Any]]:
        answers = {worker.number: state for worker, state in await self.supervisor.ask_all("state")}
        return [
            {"worker": worker.number, "pid": worker.pid, "restarts": worker.restarts, **answers.get(worker.number, {})}
            for worker in self.supervisor.workers
        ]

    def _own_metrics(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("pointsman_worker_up", "1 if the worker serves.", labels=["worker"])
        restarts = CounterMetricFamily("pointsman_worker_restarts", "Replacements of the worker.", labels=["worker"])
        in_flight = GaugeMetricFamily(
            "pointsman_worker_in_flight", "Requests in progress in the worker.", labels=["worker"]
        )
        for worker in self.supervisor.workers:
            label = [str(worker.number)]
            up.add_metric(label, float(worker.serves))
            restarts.add_metric(label, worker.restarts)
            if worker.number in self._dumps:
                in_flight.add_metric(label, _value(self._dumps[worker.number], "pointsman_in_flight"))
        return iter((up, restarts, in_flight))


def _value(dump: Dump, gauge: str) -> float:
    return next((float(samples[0][2]) for name, *_, samples in dump if name == gauge), 0.0)


async def supervise(settings: Settings) -> int:
    """Runs `settings.workers` gateway processes on the same ports until SIGINT or SIGTERM; returns the exit status.

    Raises OSError if a port is in use.
    """
    with ExitStack() as stack:
        environment = dict(os.environ)
        for name in ("http_listen", "grpc_listen", "metrics_listen", "ext_proc_listen"):
            if listen := getattr(settings, name):
                environment[f"POINTSMAN_GATEWAY_{name.upper()}"] = stack.enter_context(_reserved(listen))
        if not settings.classifier and not settings.classifier_cache:
            fitted = stack.enter_context(tempfile.TemporaryDirectory(prefix="pointsman-classifiers-"))
            environment["POINTSMAN_GATEWAY_CLASSIFIER_CACHE"] = fitted
        group = _Group(environment, settings.workers)
        patience = settings.shutdown_delay + settings.shutdown_timeout + KILL_AFTER_SECONDS
        return await group.supervisor.run(wait_for_stop_signal(), patience)


@contextmanager
def _reserved(listen: str) -> Iterator[str]:
    """Reserves the address `listen` (HOST:PORT) for sockets with SO_REUSEPORT, and yields it.

    A port of 0 is replaced by a free port.

    Raises OSError if another program uses the port. Without this check, a second gateway could start on the same port,
    and both would get a part of the requests.
    """
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # for connections in TIME_WAIT
            probe.bind((host, int(port)))
        reserved = socket.socket(family)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind((host, int(port)))
    except OSError as error:
        raise OSError(f"cannot listen on {listen}: {error.strerror}") from error
    with reserved:
        yield f"{listen.rpartition(':')[0]}:{reserved.getsockname()[1]}"
