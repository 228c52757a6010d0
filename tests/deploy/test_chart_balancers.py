"""The settings of load balancers: an answer may take ten minutes without sending a byte, and gateways drain for two
minutes."""

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from grpc import StatusCode
from grpc_health.v1 import health
from pointsman_gateway.http.asgi_app import needs_key
from pointsman_gateway.settings import Settings

from tests.deploy.kubernetes_schemas import VERSIONS, violations
from tests.deploy.manifest_lint import Cluster
from tests.deploy.rendering import chart, needs_helm
from tests.deploy.test_chart_examples import example

Object = dict[str, Any]
ALB = "alb.ingress.kubernetes.io"
ANSWERS = yaml.safe_load(files("pointsman_gateway.http").joinpath("openapi.yaml").read_text("utf-8"))["answers"]
"""The responses that the gateway documents, by path and method."""


@pytest.fixture(autouse=True)
def _helm() -> None:
    needs_helm()


def of(cluster: Cluster, kind: str) -> Object:
    found = cluster.get(kind, "gateway")
    assert found
    return found


def assert_fits(cluster: Cluster, path: str, idle_seconds: int, drain_seconds: int) -> None:
    """Checks a load balancer's health check and limits against the gateway's own."""
    gateway = cluster.workload("gateway")
    settings = cluster.environment(gateway, gateway.pod["containers"][0])
    drains = sum(int(settings[f"POINTSMAN_GATEWAY_SHUTDOWN_{part}"]) for part in ("DELAY", "TIMEOUT"))
    assert "get" in ANSWERS[path]
    assert not needs_key(path)
    assert idle_seconds > Settings.model_fields["request_timeout"].default
    assert drain_seconds > drains


def test_an_alb_of_eks() -> None:
    cluster = example("eks-70b")
    given = of(cluster, "Ingress")["metadata"]["annotations"]
    seconds = {name: int(re.findall(r"=(\d+)$", value)[0]) for name, value in given.items() if "attributes" in name}
    idle, drain = (seconds[f"{ALB}/{name}-attributes"] for name in ("load-balancer", "target-group"))
    assert_fits(cluster, given[f"{ALB}/healthcheck-path"], idle, drain)


def test_an_alb_that_carries_grpc_too() -> None:
    cluster = example("eks-grpc")
    plain = of(cluster, "Ingress")
    grpc = cluster.get("Ingress", "gateway-grpc")
    assert grpc
    given, shared = (each["metadata"]["annotations"] for each in (grpc, plain))
    own = {name: value for name, value in given.items() if shared.get(name) != value}
    assert own == {
        f"{ALB}/backend-protocol-version": "GRPC",
        f"{ALB}/healthcheck-path": f"/{health.SERVICE_NAME}/Check",  # needs no key
        f"{ALB}/success-codes": str(StatusCode.OK.value[0]),
    }
    assert f"{ALB}/group.name" in shared  # one ALB for both, which decides by the host
    (rule,) = grpc["spec"]["rules"]
    assert rule["host"] not in [each["host"] for each in plain["spec"]["rules"]]
    backend = rule["http"]["paths"][0]["backend"]["service"]
    service = cluster.get("Service", backend["name"])
    assert service
    assert backend["port"]["name"] in [port["name"] for port in service["spec"]["ports"]]


def test_a_gateway_of_gke() -> None:
    cluster = example("gke")
    timeouts, health = (of(cluster, kind)["spec"] for kind in ("GCPBackendPolicy", "HealthCheckPolicy"))
    for policy in (timeouts, health):
        assert cluster.has(policy["targetRef"]["kind"], policy["targetRef"]["name"])
    limits, check = timeouts["default"], health["default"]["config"]["httpHealthCheck"]
    assert_fits(cluster, check["requestPath"], limits["timeoutSec"], limits["connectionDraining"]["drainingTimeoutSec"])
    (rule,) = of(cluster, "HTTPRoute")["spec"]["rules"]
    assert "timeouts" not in rule


def test_an_ingress_of_gke() -> None:
    cluster = example("gke-ingress")
    config = of(cluster, "BackendConfig")["spec"]
    named = of(cluster, "Service")["metadata"]["annotations"]["cloud.google.com/backend-config"]
    assert yaml.safe_load(named) == {"default": "gateway"}
    check, drain = config["healthCheck"], config["connectionDraining"]["drainingTimeoutSec"]
    assert check["port"] == cluster.workload("gateway").ports["http"]
    assert_fits(cluster, check["requestPath"], config["timeoutSec"], drain)


def test_the_service_takes_fields_for_load_balancers_and_both_address_families(tmp_path: Path) -> None:
    spec = {
        "loadBalancerClass": "service.k8s.aws/nlb",
        "externalTrafficPolicy": "Local",
        "ipFamilyPolicy": "PreferDualStack",
        "trafficDistribution": "PreferClose",
    }
    values = {"gateway": {"service": {"type": "LoadBalancer", "spec": spec}}}
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    service = of(Cluster.of(chart("-f", str(tmp_path / "values.yaml"))), "Service")
    assert {"type": "LoadBalancer", **spec}.items() <= service["spec"].items()
    assert [violations(service, version) for version in VERSIONS] == [[], []]
