"""The page with a service's metrics, as the text that Prometheus reads.

Encoding all metrics takes tens of milliseconds, and anybody who reaches the port may request the page. So the page of
each format is built at most once a second; requests that arrive while it is built wait for it, and all requests get the
same bytes.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder

from pointsman_servicekit.shared_page import SharedPage, to_shared_page

MAX_AGE_SECONDS = 1.0
"""Seconds for which a metrics page is cached: within this time, all requests get the same page."""

OPENMETRICS = "application/openmetrics-text"
PLAIN = "text/plain"

_ENCODERS: Mapping[str, tuple[Callable[[Any], bytes], str]] = {
    OPENMETRICS: choose_encoder(OPENMETRICS),
    PLAIN: choose_encoder(PLAIN),
}
"""The encoder and the content type of each format.

There are no other formats: otherwise a client could have a page built for each version and each escaping of names that
its Accept header asks for."""


@dataclass(frozen=True, slots=True)
class MetricsPage:
    """The page with all metrics in one format, and the time until which the page is sent to further requests."""

    page: SharedPage
    expires: float
    """The time at which the page must be built again, in seconds of `time.monotonic`. All processes of a machine share
    this clock.
    """

    @property
    def is_fresh(self) -> bool:
        return time.monotonic() < self.expires


def format_of(accept: str) -> str:
    """Returns the format for an Accept header: `OPENMETRICS` if the header names it, else `PLAIN`."""
    kinds = (part.partition(";")[0].strip().lower() for part in accept.split(","))
    return OPENMETRICS if OPENMETRICS in kinds else PLAIN


def encode_page(format: str, registry: Any) -> MetricsPage:
    """Encodes the metrics of `registry` as a page that expires in `MAX_AGE_SECONDS`.

    `format` is `OPENMETRICS` or `PLAIN`; `registry` is a CollectorRegistry, `CollectedMetrics` or `StepwiseMetrics`.
    """
    page = _to_page(format, _encode(format, registry))
    return MetricsPage(page, time.monotonic() + MAX_AGE_SECONDS)  # from the end, or a slow page would expire at once


def _encode(format: str, registry: Any) -> bytes:
    """Encodes one metric after the other. The encoder keeps each line as a string until the end: a megabyte of small
    objects for a whole page, which Python's allocator would not return.
    """
    encode, _ = _ENCODERS[format]
    end = encode(_OneMetric(()))
    parts = [encode(_OneMetric((metric,))).removesuffix(end) for metric in registry.collect()]
    return b"".join([*parts, end])


@dataclass(frozen=True, slots=True)
class _OneMetric:
    """A registry of one metric, or none."""

    metrics: Sequence[Metric]

    def collect(self) -> Sequence[Metric]:
        return self.metrics


def decode_page(format: str, text: str, expires: float) -> MetricsPage:
    """Returns a page that another process has encoded, from the text and `expires` of that page.

    `format` is `OPENMETRICS` or `PLAIN`.
    """
    return MetricsPage(_to_page(format, text.encode()), expires)


def _to_page(format: str, text: bytes) -> SharedPage:
    return to_shared_page(text, _ENCODERS[format][1])


class StepwiseMetrics:
    """A registry that can be encoded in a thread: it collects the metrics on the event loop, one at a time.

    Therefore no request changes a metric while it is collected, the event loop is never blocked for long, and only one
    metric's samples are in memory.
    """

    def __init__(self, registry: CollectorRegistry, loop: asyncio.AbstractEventLoop) -> None:
        self._registry, self._loop = registry, loop

    def collect(self) -> Iterator[Metric]:
        """Yields the metrics; each step waits for the event loop, so it must not be called in the loop's own thread.

        Raises RuntimeError if the loop is closed.
        """
        metrics = iter(self._registry.collect())
        while (metric := self._collect_next(metrics)) is not None:
            yield metric

    def _collect_next(self, metrics: Iterator[Metric]) -> Metric | None:
        collected: Future[Metric | None] = Future()

        def collect() -> None:
            try:
                collected.set_result(next(metrics, None))
            except Exception as error:
                collected.set_exception(error)

        self._loop.call_soon_threadsafe(collect)
        return collected.result()


class ThreadedMetricsPages:
    """Caches the metrics page of each format (Prometheus's text or OpenMetrics), for a server that uses threads."""

    def __init__(self, build: Callable[[str], MetricsPage]) -> None:
        """Takes the function `build`, which builds the metrics page of a format, given as a media type. Only one thread
        calls it at a time.
        """
        self._build = build
        self._pages: dict[str, MetricsPage] = {}
        self._lock = Lock()

    def find(self, format: str) -> MetricsPage:
        """Returns the page of a format, which is up to `MAX_AGE_SECONDS` old.

        Raises what the function passed to the constructor raises when it builds a page.
        """
        with self._lock:
            page = self._pages.get(format)
            if page is None or not page.is_fresh:
                page = self._pages[format] = self._build(format)
        return page


class MetricsPages:
    """Caches the metrics page of each format (Prometheus's text or OpenMetrics), for a server on an event loop."""

    def __init__(self, build: Callable[[str], Awaitable[MetricsPage]]) -> None:
        """Takes the function `build`, which builds the metrics page of a format, given as a media type."""
        self._build = build
        self._pages: dict[str, MetricsPage] = {}
        self._builds: dict[str, asyncio.Task[MetricsPage]] = {}

    async def find(self, format: str) -> MetricsPage:
        """Returns the page of a format, which is up to `MAX_AGE_SECONDS` old.

        Raises what the function passed to the constructor raises when it builds a page.
        """
        page = self._pages.get(format)
        if page is not None and page.is_fresh:
            return page
        build = self._builds.get(format)
        if build is None:
            build = self._builds[format] = asyncio.create_task(self._rebuild(format), name="metrics page")
        return await asyncio.shield(build)  # a caller may disconnect while others wait

    async def _rebuild(self, format: str) -> MetricsPage:
        try:
            page = self._pages[format] = await self._build(format)
            asyncio.get_running_loop().call_later(MAX_AGE_SECONDS, self._drop, format, page)  # it has up to a megabyte
            return page
        finally:
            del self._builds[format]

    def _drop(self, format: str, page: MetricsPage) -> None:
        if self._pages.get(format) is page:
            del self._pages[format]
