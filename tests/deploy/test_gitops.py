"""The examples in deploy/gitops: Argo CD, Flux and External Secrets with the chart."""

from typing import Any

import pytest
import yaml

from deploy.helm.render import CHART, PROJECT
from tests.deploy.manifest_lint import Cluster
from tests.deploy.rendering import chart, needs_helm

FOLDER = PROJECT / "deploy" / "gitops"
KEYS = {
    "pointsman-redis": {"password", "url"},
    "pointsman-tokens": {"gateway", "operator", "retriever", "lora-server"},
    "pointsman-first-key": {"key"},
}
"""By Secret of the chart, the keys that pods read."""


def objects(name: str) -> dict[str, dict[str, Any]]:
    """Returns the objects of a file by kind and name."""
    found = yaml.safe_load_all((FOLDER / f"{name}.yaml").read_text())
    return {f"{each['kind']}/{each['metadata']['name']}": each for each in found}


def of_argo_cd() -> Cluster:
    needs_helm()
    return Cluster.of(chart("-f", str(CHART / "ci" / "argo-cd.yaml"), "-n", "pointsman"))


def named_secrets(given: Any) -> set[str]:
    """Returns the names of the Secrets to which objects refer."""
    if isinstance(given, list):
        return {name for each in given for name in named_secrets(each)}
    if not isinstance(given, dict):
        return set()
    own = {str(given[key]) for key in ("secretName",) if key in given}
    own |= {str(given[key]["name"]) for key in ("secretRef", "secretKeyRef") if key in given}
    return own | named_secrets([*given.values()])


def test_every_secret_that_the_chart_needs_comes_from_the_store() -> None:
    given = objects("external-secrets")
    copied = {name.partition("/")[2] for name in given if name.startswith("ExternalSecret/")}
    assert named_secrets(of_argo_cd().objects) == copied
    stores = {name for name in given if name.startswith("SecretStore/")}
    used = {f"{one['kind']}/{one['name']}" for each in given.values() if (one := each["spec"].get("secretStoreRef"))}
    assert used == stores


@pytest.mark.parametrize("name", KEYS)
def test_the_keys_of_a_secret_are_stated(name: str) -> None:
    text = (FOLDER / "external-secrets.yaml").read_text()
    line = next(line for line in text.splitlines() if f"key: {name.replace('-', '/', 1)}}}" in line)
    assert set(line.partition("# ")[2].split(", ")) == KEYS[name]


def test_gateways_are_restarted_for_the_keys_that_they_read_at_start() -> None:
    gateway = of_argo_cd().workload("gateway")
    watched = gateway.template["metadata"]["annotations"]["secret.reloader.stakater.com/reload"]
    read = {source["secretRef"]["name"] for source in gateway.pod["containers"][0]["envFrom"]}
    assert set(watched.split(",")) == read


def test_argo_cd_and_flux_install_this_chart() -> None:
    application = objects("argo-cd")["Application/pointsman"]["spec"]
    source, values = application["sources"]
    assert PROJECT / source["path"] == CHART
    assert source["helm"]["valueFiles"][0].startswith(f"${values['ref']}/")
    assert "ServerSideApply=true" in application["syncPolicy"]["syncOptions"]
    flux = objects("flux")
    chart_of_flux = flux["HelmRelease/pointsman"]["spec"]["chart"]["spec"]
    assert PROJECT / chart_of_flux["chart"] == CHART
    reference = chart_of_flux["sourceRef"]
    assert f"{reference['kind']}/{reference['name']}" in flux
    # Argo CD renders without a cluster: what is generated would be another Secret at each sync.
    assert not of_argo_cd().all("Secret")
