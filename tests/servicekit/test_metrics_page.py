"""The metrics page is built at most once a second, however many clients ask for it."""

import asyncio
import gzip
import threading
import urllib.request
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from pointsman_servicekit import metrics_page
from pointsman_servicekit.merged_metrics import CollectedMetrics
from pointsman_servicekit.metrics import serving_metrics
from pointsman_servicekit.metrics_page import (
    OPENMETRICS,
    PLAIN,
    MetricsPage,
    MetricsPages,
    StepwiseMetrics,
    encode_page,
    format_of,
)
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from tests.gateway.doubles.waiting import until


class CountedCollects:
    """A collector that counts how often its metrics are collected, and exports the number."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.times = 0
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        self.times += 1
        yield CounterMetricFamily("collects", "-", value=self.times)


def pages_of(collector: CountedCollects) -> MetricsPages:
    async def build(format: str) -> MetricsPage:
        collected = CollectedMetrics(collector.registry.collect())
        await asyncio.sleep(0)
        return encode_page(format, collected)

    return MetricsPages(build)


async def test_callers_at_the_same_time_share_one_page() -> None:
    collector = CountedCollects()
    pages = pages_of(collector)
    found = await asyncio.gather(*(pages.find(PLAIN) for _ in range(50)))
    assert collector.times == 1
    assert all(one is found[0] for one in found)
    assert await pages.find(PLAIN) is found[0]


class ThreadedCollects:
    """A registry of several metrics that records the thread in which each is collected."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.threads: list[int] = []
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        for number in range(3):
            self.threads.append(threading.get_ident())
            yield CounterMetricFamily(f"collects_{number}", "-", value=number)


async def test_metrics_are_collected_on_the_loop_one_at_a_time_while_a_thread_encodes_them() -> None:
    collector = ThreadedCollects()
    metrics = StepwiseMetrics(collector.registry, asyncio.get_running_loop())
    collected_before_each: list[int] = []

    def read() -> None:
        for _ in metrics.collect():
            collected_before_each.append(len(collector.threads))

    await asyncio.to_thread(read)
    assert collector.threads == [threading.get_ident()] * 3
    assert collected_before_each == [1, 2, 3]
    page = await asyncio.to_thread(encode_page, PLAIN, metrics)
    assert page.page.text == encode_page(PLAIN, collector.registry).page.text


async def test_a_metric_that_cannot_be_collected_ends_the_page() -> None:
    class Broken(ThreadedCollects):
        def collect(self) -> Iterator[Metric]:
            yield from super().collect()
            raise OSError("away")

    metrics = StepwiseMetrics(Broken().registry, asyncio.get_running_loop())
    with pytest.raises(OSError, match="away"):
        await asyncio.to_thread(encode_page, PLAIN, metrics)


async def test_a_caller_that_gives_up_takes_the_page_from_nobody() -> None:
    collector = CountedCollects()
    pages = pages_of(collector)
    first, second = (asyncio.ensure_future(pages.find(PLAIN)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert b"collects_total 1.0" in (await second).page.text


async def test_a_page_is_built_again_once_it_has_expired(monkeypatch: pytest.MonkeyPatch) -> None:
    collector = CountedCollects()
    pages = pages_of(collector)
    monkeypatch.setattr(metrics_page, "MAX_AGE_SECONDS", 0)
    await pages.find(PLAIN)
    assert b"collects_total 2.0" in (await pages.find(PLAIN)).page.text


async def test_an_expired_page_does_not_stay_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_page, "MAX_AGE_SECONDS", 0.05)
    collector = CountedCollects()

    class WatchedPage(MetricsPage):
        __slots__ = ("__weakref__",)

    async def build(format: str) -> MetricsPage:
        page = encode_page(format, collector.registry)
        return WatchedPage(page.page, page.expires)

    pages = MetricsPages(build)
    page = weakref.ref(await pages.find(PLAIN))
    await until(lambda: page() is None)


async def test_a_failed_build_is_reported_and_tried_again() -> None:
    collector, fails = CountedCollects(), True

    async def build(format: str) -> MetricsPage:
        if fails:
            raise OSError("away")
        return encode_page(format, collector.registry)

    pages = MetricsPages(build)
    with pytest.raises(OSError, match="away"):
        await pages.find(PLAIN)
    fails = False
    assert b"collects_total" in (await pages.find(PLAIN)).page.text


def test_there_are_two_formats_whatever_a_client_accepts() -> None:
    newest = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.3"
    accepted = ["", "*/*", "text/plain;version=1.0.0;escaping=dots", "application/openmetrics-text;version=x", newest]
    assert [format_of(header) for header in accepted] == [PLAIN, PLAIN, PLAIN, OPENMETRICS, OPENMETRICS]


def test_the_endpoint_builds_one_page_for_all_threads_and_paths() -> None:
    collector = CountedCollects()

    def read(number: int) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics?name[]=x{number}") as response:
            page: bytes = response.read()
            return page

    with serving_metrics("127.0.0.1:0", collector.registry) as port, ThreadPoolExecutor(4) as threads:
        pages = set(threads.map(read, range(20)))
    assert len(pages) == collector.times
    assert collector.times < 20, "each page is served for a second"


@pytest.mark.parametrize(("accepted", "compressed"), [("gzip", True), ("br, gzip;q=0.5", True), ("gzip;q=0", False)])
def test_the_endpoint_compresses_for_clients_that_accept_it(accepted: str, compressed: bool) -> None:
    with serving_metrics("127.0.0.1:0", CountedCollects().registry) as port:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"accept-encoding": accepted})
        with urllib.request.urlopen(request) as response:
            assert (response.headers["content-encoding"] == "gzip") is compressed
            body = response.read()
    assert b"collects_total" in (gzip.decompress(body) if compressed else body)


@pytest.mark.parametrize("format", [OPENMETRICS, PLAIN])
def test_a_page_is_what_the_client_library_encodes(format: str) -> None:
    registry = CollectorRegistry()
    assert encode_page(format, registry).page.text == choose_encoder(format)[0](registry)
    waits = Histogram("waits_seconds", "Of requests.", ["path"], registry=registry)
    for path in ("fast", 'with "quotes"'):
        waits.labels(path).observe(0.3, {"trace_id": "abc"})
    Counter("requests", "-", registry=registry).inc()
    text = encode_page(format, registry).page.text
    encoded = choose_encoder(format)[0](registry)
    assert text == encoded
    assert text.count(b"# EOF") == (format == OPENMETRICS)
