"""The installation on GPUs that docs/kubernetes.md begins with: its files, rendered by its own command."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from pointsman_gateway.config.load import load_config

from deploy.helm.render import CHART, PROJECT, helm
from tests.deploy.kubernetes_schemas import VERSIONS, violations
from tests.deploy.manifest_lint import Cluster, faults
from tests.deploy.rendering import needs_helm

SECTION = (PROJECT / "docs" / "kubernetes.md").read_text().partition("## Install on GPUs")[2].partition("\n## ")[0]
MAX_ACTIONS = 12


@pytest.fixture(autouse=True)
def _helm() -> None:
    needs_helm()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", SECTION, re.DOTALL)


def commands() -> list[list[str]]:
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line))]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    for name, text in zip(("pointsman.yaml", "values.yaml"), blocks("yaml"), strict=True):
        assert f"Write `{name}`" in SECTION
        (tmp_path / name).write_text(text)
    (install,) = (words for words in commands() if words[:2] == ["helm", "install"])
    waits = install.index("--wait")
    assert install[waits:] == ["--wait", "--wait-for-jobs", "--timeout", "60m"]
    assert install[3] == str(CHART.relative_to(PROJECT))
    rendering = [word.replace("$REGISTRY", "registry.example/team") for word in install[4:waits]]
    monkeypatch.chdir(tmp_path)
    return Cluster.of(helm("template", install[2], str(CHART), *rendering))


def test_its_files_are_valid_and_its_objects_pass_all_rules(installed: Cluster) -> None:
    assert faults(installed) == []
    assert [found for each in installed.objects for version in VERSIONS for found in violations(each, version)] == []


def test_it_denies_no_traffic_unless_network_policies_are_enabled(installed: Cluster) -> None:
    assert not installed.all("NetworkPolicy")
    assert "are off by default; `networkPolicy.enabled`" in (PROJECT / "docs" / "kubernetes.md").read_text()


def test_its_images_are_those_that_it_builds_and_pushes(installed: Cluster) -> None:
    pushed = {
        words[2].replace("$REGISTRY", "registry.example/team")
        for words in commands()
        if words[:2] == ["docker", "push"]
    }
    images = {container["image"] for workload in installed.workloads for container in workload.containers}
    assert images - pushed == {installed.workload("valkey").pod["containers"][0]["image"]}
    assert pushed <= images


def test_the_gateway_asks_the_model_that_the_engine_serves(
    installed: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway, engine = (installed.workload(name) for name in ("gateway", "lora-server"))
    address = installed.environment(gateway, gateway.pod["containers"][0])["POINTSMAN_LORA_SERVER"]
    config = load_config(tmp_path / "pointsman.yaml", {"POINTSMAN_LORA_SERVER": address})
    served = installed.environment(engine, engine.pod["containers"][0])["POINTSMAN_LORA_SERVED_MODEL_NAME"]
    assert list(config.models.models) == [served]
    assert engine.pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_it_takes_at_most_twelve_actions() -> None:
    """An action is a command, or a file to write; setting a variable for the next command is none."""
    acting = [words for words in commands() if not words[0].startswith("REGISTRY=")]
    assert len(acting) + len(blocks("yaml")) <= MAX_ACTIONS
    assert yaml.safe_load(blocks("yaml")[1])["engines"][0]["kind"] == "cuda"
