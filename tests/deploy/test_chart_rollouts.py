"""Which pods restart after which change: the pod templates of two renderings are compared."""

import copy
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.helm.render import CHART, PROJECT, helm
from tests.deploy.manifest_lint import Cluster
from tests.deploy.rendering import chart, needs_helm

Templates = dict[str, Any]
PAGE = PROJECT / "docs" / "howto" / "upgrade.md"
NAMES = {"gateways": "gateway", "lora-servers": "lora-server", "retriever": "retriever", "Valkey": "valkey"}
"""The workloads, by their names on the page."""
ALL = "redis.mode=sentinel,secrets.generate=false,backup.url=s3://bucket/copies,monitoring.podMonitors=true"


@pytest.fixture(autouse=True)
def _helm() -> None:
    needs_helm()


def templates(*values: str) -> Templates:
    """Returns the pod templates of objects that run permanently or on a schedule. Jobs and the test's pod are left out,
    because no update restarts them.
    """
    return _templates(chart(*(word for value in (ALL, *values) for word in ("--set", value))))


def _templates(text: str) -> Templates:
    return {
        each.where: each.template for each in Cluster.of(text).workloads if each.object["kind"] not in ("Job", "Pod")
    }


def changed(*values: str) -> set[str]:
    before, after = templates(), templates(*values)
    return {where.partition("/")[2] for where in before.keys() | after.keys() if before.get(where) != after.get(where)}


def test_a_release_changes_only_images_of_pods(tmp_path: Path) -> None:
    newer = shutil.copytree(CHART, tmp_path / "pointsman")
    description = (newer / "Chart.yaml").read_text()
    (newer / "Chart.yaml").write_text(description.replace("ersion: 0.1.0", "ersion: 0.1.1"))
    before = templates()
    after = _templates(helm("template", "pointsman", str(newer), "--namespace", "pointsman", "--set", ALL))
    assert before != after
    assert {where: _with_images(template, "0.1.0", "0.1.1") for where, template in before.items()} == after
    pinned = helm("template", "pointsman", str(newer), "-n", "pointsman", "--set", f"{ALL},images.tag=0.1.0")
    assert _templates(pinned) == before


def _with_images(template: Any, old: str, new: str) -> Any:
    template = copy.deepcopy(template)
    for container in [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]:
        if "pointsman-" in container["image"]:
            container["image"] = container["image"].replace(f":{old}", f":{new}")
    return template


def rows_of_the_page() -> Iterator[tuple[str, set[str]]]:
    """Yields each change that docs/howto/upgrade.md lists, with the workloads that restart."""
    section = PAGE.read_text().partition("## What restarts on which change")[2].partition("\n\n**")[0]
    for line in section.splitlines():
        if line.startswith("| `"):
            changes, restarted = line.strip("| ").split(" | ")
            names = {NAMES[name] for name in restarted.partition(":")[0].split(", ") if name != "nothing"}
            for change in re.findall(r"`([^`]+)`", changes):
                yield change, names


@pytest.mark.parametrize(("change", "restarted"), [*rows_of_the_page()])
def test_only_what_the_page_says_restarts(change: str, restarted: set[str]) -> None:
    name, _, value = change.partition("=")
    if name.startswith("policy.files."):
        assert templates(f"{name}=models: {{}}") == templates(f"{name}=models: {{a: 1}}")
    else:
        assert changed(f"{name}={value}") - {"backup"} == restarted  # a CronJob runs nothing that could restart


@pytest.mark.parametrize(
    ("change", "restarted"),
    [
        ("policy.files.pointsman\\.yaml=models: {}", {"gateway", "lora-server"}),  # the example's adapters go, too
        ("backup.keep=7", {"backup"}),
    ],
)
def test_the_example_and_the_copies_change_what_has_them(change: str, restarted: set[str]) -> None:
    assert changed(change) == restarted
