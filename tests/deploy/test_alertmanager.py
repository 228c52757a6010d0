"""Alerts are routed to the right receivers by a real Alertmanager with the production configuration."""

import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from tests.gateway.doubles.waiting import found
from tests.ports import free_port

CONFIG = Path(__file__).parents[2] / "deploy" / "prometheus" / "alertmanager.yml"


@pytest.mark.parametrize(
    ("labels", "receiver"), [("severity=page", "page"), ("severity=ticket", "ticket"), ("severity=none", "ticket")]
)
def test_pages_and_tickets_go_to_their_receivers(labels: str, receiver: str, say: Callable[..., str]) -> None:
    say("amtool", "check-config", str(CONFIG))
    assert say("amtool", "config", "routes", "test", f"--config.file={CONFIG}", labels).strip() == receiver


@pytest.fixture
async def alertmanager(tmp_path: Path, tool: Callable[..., str]) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a ready Alertmanager on a free port."""
    program = tool("prometheus-alertmanager", "alertmanager")  # the first is Debian's name for it
    address = f"127.0.0.1:{free_port()}"
    own = [f"--config.file={CONFIG}", f"--storage.path={tmp_path}", f"--web.listen-address={address}"]
    command = [program, *own, "--cluster.listen-address="]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)  # noqa: ASYNC220  # it forks at once
    try:
        async with httpx.AsyncClient(base_url=f"http://{address}", verify=False) as client:
            await found(lambda: _is_ready(client), within=20)
            yield client
    finally:
        process.terminate()
        process.wait()


async def _is_ready(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/-/ready")).status_code == 200
    except httpx.TransportError:
        return False


async def test_a_page_inhibits_the_ticket_of_its_own_objective_and_no_other(alertmanager: httpx.AsyncClient) -> None:
    alerts = {
        "page": {"alertname": "PointsmanAvailabilityPage", "severity": "page", "slo": "availability"},
        "its ticket": {"alertname": "PointsmanAvailabilityTicket", "severity": "ticket", "slo": "availability"},
        "another's": {"alertname": "PointsmanLatencyTicket", "severity": "ticket", "slo": "latency"},
        "down": {"alertname": "PointsmanGatewayDown", "severity": "page", "job": "pointsman-gateway"},
        "its target": {"alertname": "PointsmanTargetDown", "severity": "ticket", "job": "pointsman-gateway"},
        "another target": {"alertname": "PointsmanTargetDown", "severity": "ticket", "job": "pointsman-engine"},
        "another installation's": {
            "alertname": "PointsmanTargetDown",
            "severity": "ticket",
            "job": "pointsman-gateway",
            "namespace": "other",
        },
        "another cluster's": {
            "alertname": "PointsmanAvailabilityTicket",
            "severity": "ticket",
            "slo": "availability",
            "cluster": "other",
        },
        "without either": {"alertname": "PointsmanFallbackShare", "severity": "ticket"},
    }
    posted = [{"labels": {**labels, "given": name}} for name, labels in alerts.items()]
    (await alertmanager.post("/api/v2/alerts", json=posted)).raise_for_status()

    async def inhibited() -> set[str]:
        standing = (await alertmanager.get("/api/v2/alerts")).json()
        if len(standing) < len(alerts):
            return set()
        return {alert["labels"]["given"] for alert in standing if alert["status"]["inhibitedBy"]}

    async def as_it_should_be() -> bool:
        return await inhibited() == {"its ticket", "its target"}

    await found(as_it_should_be)
