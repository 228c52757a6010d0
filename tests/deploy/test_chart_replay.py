"""The replay of recorded requests, which has to succeed before an upgrade changes anything."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pointsman_lab.__main__ import main

from deploy.helm.render import PROJECT
from tests.deploy.kubernetes_schemas import VERSIONS, violations
from tests.deploy.manifest_lint import Cluster, faults
from tests.deploy.manifest_lint.cluster import Workload
from tests.deploy.rendering import chart, needs_helm
from tests.ports import free_port

Object = dict[str, Any]
REPLAY = {"enabled": True, "maxChanged": 0.1, "since": "7d"}
HELPDESK = PROJECT / "examples" / "helpdesk" / "config"


@pytest.fixture(autouse=True)
def _helm() -> None:
    needs_helm()


def render(tmp_path: Path, values: Object) -> tuple[Cluster, Workload]:
    (tmp_path / "values.yaml").write_text(yaml.safe_dump({"networkPolicy": {"enabled": True}, **values}))
    cluster = Cluster.of(chart("-f", str(tmp_path / "values.yaml")))
    assert [found for each in cluster.objects for version in VERSIONS for found in violations(each, version)] == []
    return cluster, cluster.workload("replay")


def hooks(cluster: Cluster) -> dict[str, int]:
    """Returns the weights of the objects that Helm applies before an upgrade, by kind and name."""
    notes = {f"{o['kind']}/{o['metadata']['name']}": o["metadata"].get("annotations", {}) for o in cluster.objects}
    return {
        name: int(note.get("helm.sh/hook-weight", 0))
        for name, note in notes.items()
        if note.get("helm.sh/hook") == "pre-upgrade"
    }


def test_it_reads_the_new_configuration_before_the_release_has_it(tmp_path: Path) -> None:
    cluster, job = render(tmp_path, {"policy": {"files": {"pointsman.yaml": "models: {}"}, "replay": REPLAY}})
    assert hooks(cluster) == {
        "ConfigMap/replay-pointsman-policy": -1,
        "NetworkPolicy/replay-to-redis": -1,
        "NetworkPolicy/redis-from-replay": -1,
        "Job/replay": 0,
    }
    (policy,) = (volume["projected"] for volume in job.pod["volumes"] if "projected" in volume)
    assert policy["sources"] == [{"configMap": {"name": "replay-pointsman-policy"}}]
    copy, own = (cluster.get("ConfigMap", name) for name in ("replay-pointsman-policy", "pointsman-policy"))
    assert copy
    assert own
    assert copy["data"] == own["data"]
    assert faults(cluster) == []


def test_it_has_the_gateways_settings_and_secrets(tmp_path: Path) -> None:
    gateway = {"envFromSecrets": ["provider-keys"], "pod": {"containers": [{"name": "sidecar", "image": "a/b:1"}]}}
    cluster, job = render(tmp_path, {"gateway": gateway, "policy": {"replay": REPLAY}})
    (container,) = job.pod["containers"]
    other = cluster.workload("gateway")
    assert cluster.environment(job, container) == cluster.environment(other, other.pod["containers"][0])
    assert container["envFrom"] == [{"secretRef": {"name": "provider-keys"}}]
    assert "ports" not in container
    assert not cluster.selected(cluster.get("Service", "gateway")["spec"]["selector"])[1:]  # type: ignore[index]  # it is there


def test_it_runs_without_the_gateways_export_but_with_the_users_first_steps(tmp_path: Path) -> None:
    first = {"name": "secrets", "image": "registry.example/secrets:1"}
    gateway = {"pod": {"initContainers": [first]}}
    _, job = render(tmp_path, {"export": {"target": "s3://a/b"}, "gateway": gateway, "policy": {"replay": REPLAY}})
    assert job.pod["initContainers"] == [first]


def test_configmaps_of_the_user_are_read_where_they_are(tmp_path: Path) -> None:
    maps = {"policy": ["pointsman-policy-v2"]}
    cluster, job = render(tmp_path, {"policy": {"configMaps": maps, "replay": REPLAY}, "redis": EXTERNAL})
    (policy,) = (volume["projected"] for volume in job.pod["volumes"] if "projected" in volume)
    assert policy["sources"] == [{"configMap": {"name": "pointsman-policy-v2"}}]
    assert hooks(cluster).keys() == {"NetworkPolicy/replay-to-redis", "Job/replay"}


EXTERNAL = {"mode": "external", "existingSecret": "my-redis"}


def test_its_command_fails_if_the_log_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, job = render(tmp_path, {"policy": {"replay": REPLAY}})
    *program, command, folder, since, share = job.pod["containers"][0]["command"]
    assert (program, folder) == (["python", "-m", "pointsman_lab"], "/etc/pointsman/config")
    assert (since, share) == ("--since=7d", "--fail-if-changed=0.1")
    nobody = f"redis://127.0.0.1:{free_port()}/0"
    assert main([command, str(HELPDESK), since, share, "--redis", nobody]) == 1
    assert "error: " in capsys.readouterr().err


def test_without_the_value_nothing_is_done_before_an_upgrade() -> None:
    assert hooks(Cluster.of(chart())) == {}
