"""`pointsman top` with small metrics servers that use real registries, and a lora-server over real gRPC."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import inf
from pathlib import Path
from typing import Any

import pytest
from pointsman.v1 import lora_server_pb2 as pb
from pointsman.v1 import lora_server_pb2_grpc
from pointsman_cli.data_dir import Run, RunningProcess, write_run
from pointsman_cli.top.command import find_services
from pointsman_cli.top.figures import GATEWAY_METRICS, gateway_figures
from pointsman_cli.top.metrics import Scrape, Window, parse_metrics, quantile
from pointsman_cli.top.services import ServiceAddresses
from pointsman_gateway.metering.prometheus import GatewayMetrics
from pointsman_lora_server.metrics import LoraServerMetrics
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

Cli = Callable[..., Any]
Serve = Callable[..., "MetricsServer"]

BY_PATH = ["path", "kind", "task"]
OLD, NEW, FAILED = "triage@111111111111", "triage@222222222222", "triage@333333333333"
SUFFIX = {"counter": "_total", "histogram": "_bucket", "gauge": ""}
PATIENCE = 30.0


class Gateway:
    """The gateway's metrics, in a registry of the Prometheus client library."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        edges = (0.1, 0.5, 1, 2)
        self._requests = Counter("pointsman_requests", "-", [*BY_PATH, "outcome", "fault"], registry=registry)
        self._seconds = Histogram("pointsman_request_duration_seconds", "-", BY_PATH, registry=registry, buckets=edges)
        self._first = Histogram("pointsman_time_to_first_token_seconds", "-", BY_PATH, registry=registry, buckets=edges)
        self._tokens = Counter("pointsman_tokens", "-", [*BY_PATH, "type"], registry=registry)
        self._cost = Counter("pointsman_cost_usd", "-", [*BY_PATH, "component"], registry=registry)
        self.fallbacks = Counter("pointsman_fallbacks", "-", ["source", "target"], registry=registry)
        self.in_flight = Gauge("pointsman_in_flight", "-", registry=registry)
        self.waiting = Gauge("pointsman_queue_depth", "-", registry=registry)
        self.breaker = Gauge("pointsman_engine_breaker_open", "-", ["engine"], registry=registry)
        self.redis = Gauge("pointsman_redis_up", "-", registry=registry)
        self.redis.set(1)
        self.lag = Histogram("pointsman_event_loop_lag_seconds", "-", registry=registry, buckets=(0.001, 0.01))

    def answer(
        self, path: str, task: str = "-", outcome: str = "ok", fault: str = "none", seconds: float = 1.5
    ) -> None:
        labels = (path, "rag", task)
        self._requests.labels(*labels, outcome, fault).inc()
        self._seconds.labels(*labels).observe(seconds)
        self._first.labels(*labels).observe(0.05)
        self._tokens.labels(*labels, "prompt").inc(100)
        self._tokens.labels(*labels, "completion").inc(20)
        self._cost.labels(*labels, "prompt").inc(0.001)
        self._cost.labels(*labels, "completion").inc(0.002)


class LoraMetrics:
    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        for name, value in (("engine_up", 1), ("slots", 4), ("resident_adapters", 2), ("redis_up", 1)):
            Gauge(f"pointsman_lora_{name}", "-", registry=registry).set(value)
        self.restarts = Counter("pointsman_lora_engine_restarts", "-", registry=registry)
        self.loads = Counter("pointsman_lora_adapter_loads", "-", ["result"], registry=registry)
        self.evictions = Counter("pointsman_lora_adapter_evictions", "-", ["reason"], registry=registry)


class MetricsServer:
    """A server of a metrics page. `between` is called before each scrape except the first one, to change the
    metrics.
    """

    def __init__(self, registry: CollectorRegistry, between: Callable[[], None], port: int = 0) -> None:
        self.registry = registry
        self.body: bytes | None = None
        self.status = 200
        self.looks = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # the library's name
                assert self.path == "/metrics"
                if outer.looks:
                    between()
                outer.looks += 1
                self.send_response(outer.status)
                self.send_header("content-type", CONTENT_TYPE_LATEST)
                self.end_headers()
                self.wfile.write(generate_latest(outer.registry) if outer.body is None else outer.body)

            def log_message(self, *words: object) -> None:
                """Disables the log."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:

        def start(of: Any, between: Callable[[], None] = lambda: None, port: int = 0) -> MetricsServer:
            server = MetricsServer(of.registry, between, port)
            stack.callback(server.stop)
            return server

        yield start


class LoraServer(lora_server_pb2_grpc.LoraServerServicer):
    """A lora-server with a serving version, its canary, and a failed version."""

    def __init__(self) -> None:
        self.status = pb.ENGINE_STATUS_READY
        self.versions = [
            pb.AdapterVersion(version=OLD, state=pb.ADAPTER_STATE_SERVING, pinned=True),
            pb.AdapterVersion(version=NEW, state=pb.ADAPTER_STATE_SERVING),
            pb.AdapterVersion(version=FAILED, state=pb.ADAPTER_STATE_FAILED),
        ]
        self.aliases = [
            pb.Alias(alias="triage@prod", version=OLD, canary_version=NEW, canary_weight=0.05),
            pb.Alias(alias="triage@beta", version=NEW),
        ]

    async def List(self, request: Any, context: Any) -> pb.ListAdaptersResponse:
        return pb.ListAdaptersResponse(versions=self.versions, aliases=self.aliases)

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[pb.EngineState]:
        yield pb.EngineState(engine="local", status=self.status, detail="loading the weights", resident=[OLD, NEW])


@pytest.fixture
def lora_server() -> LoraServer:
    return LoraServer()


@pytest.fixture
def address(lora_server: LoraServer, grpc_server: Callable[..., str]) -> str:
    return grpc_server(
        "pointsman.v1.LoraServer", lambda grpc: lora_server_pb2_grpc.add_LoraServerServicer_to_server(lora_server, grpc)
    )


@pytest.fixture
def top(cli: Cli, address: str, serve: Serve, tmp_path: Path) -> Cli:
    def call(gateway: str, *arguments: object, lora_metrics: str = "") -> Any:
        where = ("--gateway", gateway, "--lora-server", address, "--data-dir", tmp_path)
        metrics = lora_metrics or serve(LoraMetrics()).url
        return cli("top", "--once", "--interval", "0.1", *where, "--lora-metrics", metrics, *arguments)

    return call


# -- figures


def test_figures_are_differences_between_two_scrapes(top: Cli, serve: Serve) -> None:
    gateway = Gateway()
    for _ in range(7):
        gateway.answer("handbook", seconds=0.05)  # before the first scrape, so it does not count
    gateway.fallbacks.labels("handbook", "faq").inc()

    def between() -> None:
        for _ in range(6):
            gateway.answer("handbook", "policy_question")
        gateway.answer("handbook", "small_talk", "engine_failed", "engine")
        gateway.answer("handbook", "small_talk", "refused_limit", "limits")
        gateway.answer("faq", outcome="refused_request", fault="caller", seconds=5)
        gateway.answer("faq", outcome="cancelled")
        gateway.fallbacks.labels("handbook", "faq").inc(2)
        gateway.in_flight.set(3)
        gateway.waiting.set(4)
        gateway.lag.observe(0.005)
        gateway.breaker.labels("gpu").set(1)
        gateway.breaker.labels("local").set(0)

    shown = top(serve(gateway, between).url, "--json")

    assert shown.code == 0
    found = json.loads(shown.out)["gateway"]
    handbook, faq = found["paths"]
    assert (handbook["path"], handbook["kind"], handbook["requests"], handbook["share"]) == ("handbook", "rag", 8, 0.8)
    assert (faq["path"], faq["share"], faq["failures"], faq["fallbacks"]) == ("faq", 0.2, 0, 0)
    assert (handbook["failures"], handbook["fallbacks"]) == (1, 2)
    assert handbook["seconds"] == {"p50": 1.5, "p95": pytest.approx(1.95), "p99": pytest.approx(1.99)}
    assert handbook["first_token_seconds"]["p50"] == 0.05
    assert handbook["usd_per_1k_requests"] == pytest.approx(3)
    assert found["seconds"] >= 0.1
    assert handbook["requests_per_second"] == pytest.approx(8 / found["seconds"])
    assert handbook["tokens_per_second"]["completion"] == pytest.approx(160 / found["seconds"])
    assert handbook["tokens_per_second"]["prompt"] == pytest.approx(800 / found["seconds"])
    assert (found["in_flight"], found["waiting"], found["open_breakers"], found["redis_up"]) == (3, 4, ["gpu"], True)
    assert found["event_loop_lag_seconds"]["p50"] == pytest.approx(0.0055)


def test_workers_are_shown_each(top: Cli, serve: Serve) -> None:
    gateway = Gateway()
    gateway.answer("faq")
    up = Gauge("pointsman_worker_up", "-", ["worker"], registry=gateway.registry)
    in_flight = Gauge("pointsman_worker_in_flight", "-", ["worker"], registry=gateway.registry)
    restarts = Counter("pointsman_worker_restarts", "-", ["worker"], registry=gateway.registry)
    for worker, is_up, answers, replaced in (("1", 1, 3, 0), ("2", 0, 0, 2), ("10", 1, 4, 0)):
        up.labels(worker).set(is_up)
        in_flight.labels(worker).set(answers)
        restarts.labels(worker).inc(replaced)
    url = serve(gateway).url

    shown = top(url).out
    assert "worker 1 up, in flight 3, replaced 0 times" in shown
    assert "worker 2 down, replaced 2 times" in shown
    assert [one["worker"] for one in json.loads(top(url, "--json").out)["gateway"]["workers"]] == ["1", "2", "10"]


def test_a_value_above_the_last_bucket_counts_as_its_bound_as_in_prometheus(top: Cli, serve: Serve) -> None:
    gateway = Gateway()

    found = json.loads(top(serve(gateway, lambda: gateway.answer("faq", seconds=50)).url, "--json").out)

    assert found["gateway"]["paths"][0]["seconds"] == {"p50": 2, "p95": 2, "p99": 2}


def test_an_unused_path_is_shown_without_quantiles_and_dollars(top: Cli, serve: Serve) -> None:
    gateway = Gateway()
    gateway.answer("faq")

    (path,) = json.loads(top(serve(gateway).url, "--json").out)["gateway"]["paths"]

    assert (path["path"], path["requests"], path["share"], path["usd_per_1k_requests"]) == ("faq", 0, None, None)
    assert path["seconds"] == {"p50": None, "p95": None, "p99": None}


@pytest.mark.parametrize(
    ("buckets", "share", "value"),
    [
        ({1: 10, 2: 20, inf: 20}, 0.5, 1),
        ({1: 10, 2: 20, inf: 20}, 0.75, 1.5),
        ({1: 0, 2: 20, inf: 20}, 0.5, 1.5),  # what lies below an empty bucket's edge is not reckoned with
        ({1: 0, 2: 0, inf: 20}, 0.5, 2),
        ({1: 0, inf: 0}, 0.5, None),
        ({}, 0.5, None),
    ],
)
def test_quantiles_are_computed_as_in_prometheus(
    buckets: dict[float, float], share: float, value: float | None
) -> None:
    assert quantile(buckets, share) == value


def scrape(at: float, gateway: Gateway) -> Scrape:
    return parse_metrics(generate_latest(gateway.registry).decode(), at, GATEWAY_METRICS)


def test_older_scrapes_leave_the_window() -> None:
    gateway, window = Gateway(), Window(10)
    for at in range(0, 41, 5):
        gateway.answer("faq")
        window.add(scrape(at, gateway))

    figures = gateway_figures(window)

    assert figures is not None
    assert (figures.seconds, figures.requests_per_second, figures.paths[0].requests) == (10, 0.2, 2)


def test_a_single_scrape_gives_no_figures() -> None:
    window = Window(10)
    window.add(scrape(0, Gateway()))

    assert gateway_figures(window) is None


def test_counters_of_a_restarted_gateway_start_at_0() -> None:
    before, after, window = Gateway(), Gateway(), Window(60)
    for _ in range(100):
        before.answer("faq")
    window.add(scrape(0, before))
    before.answer("faq")
    window.add(scrape(1, before))
    for path in ("faq", "faq", "handbook"):
        after.answer(path)
    window.add(scrape(2, after))

    figures = gateway_figures(window)

    assert figures is not None
    assert {path.path: path.requests for path in figures.paths} == {"faq": 3, "handbook": 1}


def test_failures_are_not_shown_if_the_gateway_exports_no_faults() -> None:
    registry, window = CollectorRegistry(), Window(10)
    requests = Counter("pointsman_requests", "-", [*BY_PATH, "outcome"], registry=registry)
    for at in range(2):
        requests.labels("faq", "rag", "-", "engine_failed").inc()
        window.add(parse_metrics(generate_latest(registry).decode(), at, GATEWAY_METRICS))

    figures = gateway_figures(window)

    assert figures is not None
    assert (figures.paths[0].requests, figures.paths[0].failures) == (1, None)


def test_labels_with_special_characters_are_parsed() -> None:
    registry = CollectorRegistry()
    Gauge("pointsman_queue_depth", "-", ["x"], registry=registry).labels('a"b\\c\nd\u2028e\x85,}').set(2)

    (labels,) = parse_metrics(generate_latest(registry).decode(), 0, GATEWAY_METRICS).samples["pointsman_queue_depth"]

    assert labels == (("x", 'a"b\\c\nd\u2028e\x85,}'),)


def test_the_used_metric_names_exist_in_the_services() -> None:
    gateway = CollectorRegistry()
    GatewayMetrics(gateway)
    given = {f"{metric.name}{SUFFIX[metric.type]}" for metric in gateway.collect()}
    given |= {f"{metric.name}{SUFFIX[metric.type]}" for metric in LoraServerMetrics("a-model").registry.collect()}

    read = set(GATEWAY_METRICS) - {"pointsman_event_loop_lag_seconds_bucket", "pointsman_engine_breaker_open"}
    read = {name for name in read if not name.startswith("pointsman_worker_")}
    assert read - {"pointsman_redis_up"} <= given  # the others are counted by other parts of the gateway
    assert {
        "pointsman_lora_adapter_loads_total",
        "pointsman_lora_adapter_evictions_total",
        "pointsman_lora_redis_up",
    } <= given


# -- the page


def test_the_page_fits_80_columns_without_cutting_names(
    top: Cli, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    gateway, long = Gateway(), "a_path_with_a_name_as_long_as_any_may_be_" + "x" * 23
    gateway.answer("other")

    def between() -> None:
        for _ in range(20_000):
            gateway.answer(long, seconds=0.3)
        gateway.answer("faq", outcome="internal", fault="gateway")
        gateway.fallbacks.labels("faq", "other").inc(12)

    shown = top(serve(gateway, between).url)

    assert shown.code == 0
    lines = shown.out.splitlines()
    assert max(map(len, lines)) <= 80
    (faq,) = [line.split() for line in lines if line.startswith("faq ")]
    assert faq[1] == "0%"
    assert faq[3:7] == ["1.50s", "1.95s", "50ms", "95ms"]
    assert faq[8:] == ["3.0000", "12", "1"]
    assert any(line.split() == ["other", "0%", "0.00", "-", "-", "-", "-", "0.00", "-", "0", "0"] for line in lines)
    begun = next(number for number, line in enumerate(lines) if line.startswith("a_path"))
    assert long in "".join(line.partition(" ")[0] for line in lines[begun:])
    assert "100%" in lines[begun]


def test_adapters_are_shown_with_state_aliases_and_canary_weights(top: Cli, serve: Serve) -> None:
    metrics = LoraMetrics()
    lora = serve(metrics, lambda: metrics.loads.labels("loaded").inc(3))
    gateway = serve(Gateway())

    shown = top(gateway.url, lora_metrics=lora.url)
    as_json = json.loads(top(gateway.url, "--json", lora_metrics=lora.url).out)

    lines = [" ".join(line.split()) for line in shown.out.splitlines()]
    assert f"{OLD} serving triage@prod, pinned" in lines
    assert f"{NEW} serving triage@beta, triage@prod for 0.05" in lines
    assert "not in this engine: 1 more" in lines
    assert "engine up, restarted 0 times" in lines
    assert "adapter slots 2 of 4; loads 3 loaded, evictions 0" in lines
    old, new = as_json["adapters"]["versions"]
    assert (old["version"], old["resident"], old["pinned"], old["aliases"]) == (OLD, True, True, ["triage@prod"])
    assert (new["state"], new["canary"]) == ("serving", {"triage@prod": 0.05})
    assert as_json["lora_server"]["slots"] == 4
    assert as_json["lora_server"]["engine_up"] is True


def test_an_engine_that_is_not_ready_is_shown(top: Cli, serve: Serve, lora_server: LoraServer) -> None:
    lora_server.status = pb.ENGINE_STATUS_STARTING

    assert "engine local is starting: loading the weights" in top(serve(Gateway()).url).out


# -- what is away


def test_an_unreachable_gateway_is_reported_and_the_rest_is_shown(top: Cli) -> None:
    shown = top("127.0.0.1:1")

    assert (shown.code, shown.err) == (1, "")
    assert "gateway is away: http://127.0.0.1:1/metrics cannot be reached" in " ".join(shown.out.split())
    assert OLD in shown.out


def test_an_unreachable_lora_server_is_reported_and_the_rest_is_shown(cli: Cli, serve: Serve, tmp_path: Path) -> None:
    gateway = Gateway()
    server = serve(gateway, lambda: gateway.answer("faq"))
    silent = ("--lora-server", "127.0.0.1:1", "--lora-metrics", "127.0.0.1:1", "--data-dir", tmp_path)

    shown = cli("top", "--once", "--interval", "0.1", "--gateway", server.url, *silent)

    output = " ".join(shown.out.split())
    assert (shown.code, shown.err) == (0, "")
    assert "faq 100%" in output
    assert "lora-server's metrics are away: http://127.0.0.1:1/metrics cannot be reached" in output
    assert "adapters cannot be listed: lora-server cannot be reached" in output


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (200, b"<html>hello</html>", "cannot be read: it has no metric of this service"),
        (200, b'pointsman_queue_depth{a="1 2\n', "cannot be read: "),
        (503, b"", "answers 503"),
    ],
)
def test_a_server_that_is_not_a_gateway_is_reported(
    top: Cli, serve: Serve, status: int, body: bytes, message: str
) -> None:
    server = serve(Gateway())
    server.status, server.body = status, body

    shown = top(server.url, "--json")

    assert shown.code == 1
    assert message in json.loads(shown.out)["gateway"]["problem"]


# -- live


class Output:
    """Reads what a program writes to its terminal."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._text = ""

    def until(self, word: str) -> str:
        """Waits for `word`, and returns the output since the last call, up to and including `word`."""
        deadline = time.monotonic() + PATIENCE
        while word not in self._text:
            readable, _, _ = select.select([self._descriptor], [], [], max(0, deadline - time.monotonic()))
            assert readable, f"no {word!r} within {PATIENCE:g} s in {self._text!r}"
            self._text += os.read(self._descriptor, 65536).decode()
        found, word, self._text = self._text.partition(word)
        return found + word


@pytest.fixture
def watching(address: str, serve: Serve, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(gateway: str, out: int, *arguments: str, err: int | None = None) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "pointsman_cli", "top", "--interval", "0.1", "--data-dir", str(tmp_path)]
        command += ["--gateway", gateway, "--lora-server", address, "--lora-metrics", serve(LoraMetrics()).url]
        terminal = {"TERM": "xterm", "COLUMNS": "80", "LINES": "40"}
        env = {**os.environ, **terminal}
        process = subprocess.Popen([*command, *arguments], stdout=out, stderr=out if err is None else err, env=env)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_it_survives_a_gateway_restart_and_ends_on_ctrl_c(serve: Serve, watching: Any) -> None:
    gateway = Gateway()
    server = MetricsServer(gateway.registry, lambda: gateway.answer("faq"))
    reading, writing = pty.openpty()
    process = watching(server.url, writing)
    output = Output(reading)
    output.until("requests/s")
    output.until("100%")

    server.stop()
    output.until("gateway is away")
    serve(gateway, lambda: gateway.answer("faq"), server.port)
    output.until("100%")

    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 0
    os.close(writing)
    os.close(reading)


def test_with_json_it_prints_a_line_per_scrape_until_stopped(serve: Serve, watching: Any) -> None:
    gateway = Gateway()
    server = serve(gateway, lambda: gateway.answer("faq"))
    reading, writing = os.pipe()
    process = watching(server.url, writing, "--json", "--window", "60")
    os.close(writing)

    with os.fdopen(reading) as lines:
        looks = [json.loads(next(lines)) for _ in range(3)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        assert all(json.loads(line) for line in lines)

    assert [look["gateway"]["paths"][0]["requests"] for look in looks] == [1, 2, 3]
    assert looks[0]["unix_ms"] < looks[1]["unix_ms"] < looks[2]["unix_ms"]


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_it_ends_silently_if_its_output_is_closed(serve: Serve, watching: Any, arguments: tuple[str]) -> None:
    reading, writing = os.pipe()
    process = watching(serve(Gateway()).url, writing, *arguments, err=subprocess.PIPE)
    os.close(writing)
    os.read(reading, 1)
    os.close(reading)

    assert process.communicate(timeout=PATIENCE) == (None, b"")
    assert process.returncode == 1


# -- where


def test_the_address_is_the_option_or_the_running_gateway_or_the_default(tmp_path: Path) -> None:
    usual = ServiceAddresses("http://127.0.0.1:8080/metrics", "127.0.0.1:8083", "http://127.0.0.1:9083/metrics")
    assert find_services("", "", "", tmp_path) == usual

    names = {name: f"http://{name}:1" for name in Run.__dataclass_fields__ if name not in ("pid", "processes")}
    names |= {
        "gateway_metrics": "http://g:1/metrics",
        "lora_server_metrics": "http://m:1/metrics",
        "lora_server": "l:1",
    }
    write_run(
        Run(pid=os.getpid(), processes={"gateway": RunningProcess(7, "x:1", "log")}, **names), tmp_path / "run.json"
    )
    assert find_services("", "", "", tmp_path) == ServiceAddresses("http://g:1/metrics", "l:1", "http://m:1/metrics")

    named = find_services("https://there:8443/", "there:2", "http://there:3/metrics", tmp_path)
    assert named == ServiceAddresses("https://there:8443/metrics", "there:2", "http://there:3/metrics")
