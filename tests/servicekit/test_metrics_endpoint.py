"""`GET /metrics` of services without an HTTP door."""

import urllib.request

import pytest
from pointsman_servicekit.metrics_endpoint import serving_metrics
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


def test_a_taken_port_is_an_error_that_names_it() -> None:
    with (
        serving_metrics("127.0.0.1:0", CollectorRegistry()) as port,
        pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"),
        serving_metrics(f"127.0.0.1:{port}", CollectorRegistry()),
    ):
        pass
