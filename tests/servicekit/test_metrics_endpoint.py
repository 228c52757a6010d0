"""`GET /metrics` of services without an HTTP API."""

import urllib.error
import urllib.request
from pathlib import Path

import pytest
from pointsman_servicekit.metrics import serving_metrics
from prometheus_client import CollectorRegistry, Counter


def test_it_serves_its_registry_until_the_end_of_the_block() -> None:
    registry = CollectorRegistry()
    Counter("pointsman_points", "Points moved.", registry=registry).inc(3)
    with serving_metrics("127.0.0.1:0", registry) as port:
        url = f"http://127.0.0.1:{port}/metrics"
        with urllib.request.urlopen(url) as response:
            assert "pointsman_points_total 3.0" in response.read().decode()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url)


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6")
@pytest.mark.parametrize(("listen", "hosts"), [("[::1]:0", ["[::1]"]), ("[::]:0", ["[::1]", "127.0.0.1"])])
def test_it_serves_ipv6_and_at_the_unspecified_address_ipv4_too(listen: str, hosts: list[str]) -> None:
    with serving_metrics(listen, CollectorRegistry()) as port:
        for host in hosts:
            with urllib.request.urlopen(f"http://{host}:{port}/healthz") as response:
                assert response.read() == b"ok\n"


def test_a_port_in_use_is_named() -> None:
    with (
        serving_metrics("127.0.0.1:0", CollectorRegistry()) as port,
        pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"),
        serving_metrics(f"127.0.0.1:{port}", CollectorRegistry()),
    ):
        pass


def test_liveness_and_readiness_are_served() -> None:
    ready = False
    with serving_metrics("127.0.0.1:0", CollectorRegistry(), lambda: ready) as port:
        assert status_and_text(port, "healthz") == (200, "ok\n")
        assert status_and_text(port, "readyz") == (503, "not ready\n")
        ready = True
        assert status_and_text(port, "readyz") == (200, "ready\n")


def status_and_text(port: int, page: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}") as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
