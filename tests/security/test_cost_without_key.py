"""What requests without a key cost, which anybody may send as often as they like."""

from typing import BinaryIO

import pytest

from tests.security.http_client import head
from tests.security.measuring import connect, cost_of, cpu_seconds_to_receive
from tests.security.target import Addresses

TIMES = 200

SHARED_PAGES = ("/metrics", "/openapi.json")
"""Large pages; all callers share one copy of their bytes."""

OPEN_PATHS = (
    *SHARED_PAGES,
    *("/healthz", "/readyz", "/readyz?engines=0", "/docs", "/", "/unknown"),
    *("/console", "/console/", "/console/app.js", "/console/unknown", "/console/api/login"),
)


def ask_often(target: Addresses, path: str, *headers: str) -> int:
    """Sends many requests at once over one connection; returns the length of the answers' bodies."""
    with connect(target.http) as connection, connection.makefile("rb") as answers:
        connection.sendall(head("GET", path, *headers) * TIMES)
        return sum(skip_answer(answers) for _ in range(TIMES))


def skip_answer(answers: BinaryIO) -> int:
    length = 0
    while line := answers.readline().rstrip():
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    assert len(answers.read(length)) == length
    return length


@pytest.mark.parametrize("path", OPEN_PATHS)
@pytest.mark.parametrize("headers", [(), ("accept-encoding: gzip",)], ids=["plain", "gzip"])
def test_a_request_without_a_key_costs_little(target: Addresses, path: str, headers: tuple[str, ...]) -> None:
    """At most 1 ms of CPU time, 2 ms on a machine that is so busy that sending the bytes takes longer.

    The best of five attempts counts.
    """
    costs = []
    for _ in range(5):
        with cost_of(target.gateway_pid) as cost:
            length = ask_often(target, path, *headers)
        costs.append(cost.cpu_seconds / TIMES)
        if costs[-1] <= max(0.001, 0.0005 + 3 * cpu_seconds_to_receive(length // TIMES)):
            return
    raise AssertionError(costs)
