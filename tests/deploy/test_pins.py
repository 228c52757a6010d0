"""Images are pinned in the manifests by registry and digest."""

import shutil
from pathlib import Path

import pytest
import yaml

from deploy.supply.pins import pin, pushed
from deploy.supply.versions import PLACES, renewed, version
from tests.deploy.manifest_lint.cluster import Cluster, each_container
from tests.deploy.rendering import PROJECT, rendered

PLACE = "registry.example:5000/team"
DIGESTS = {
    name: f"sha256:{number:064x}"
    for number, name in enumerate(
        ("pointsman-gateway", "pointsman-lora-server-cpu", "pointsman-lora-server-cuda", "valkey")
    )
}


@pytest.fixture
def k8s(tmp_path: Path) -> Path:
    """A writable copy of the manifests, with the files that they use from the example."""
    for folder in ("examples/helpdesk/config", "deploy"):
        shutil.copytree(PROJECT / folder, tmp_path / folder)
    return tmp_path / "deploy" / "k8s"


def _images(folder: Path) -> set[str]:
    return {container["image"] for _, container, _ in each_container(Cluster.of(rendered(folder)))}


def test_the_manifests_use_the_digests_of_the_pushed_images(k8s: Path) -> None:
    pin([pushed(f"{PLACE}/{name}@{digest}") for name, digest in DIGESTS.items()], k8s)

    cpu, gateway = _images(k8s / "overlays" / "cpu"), f"{PLACE}/pointsman-gateway:{version()}"
    assert f"{gateway}@{DIGESTS['pointsman-gateway']}" in cpu
    assert f"{PLACE}/pointsman-lora-server-cpu:{version()}@{DIGESTS['pointsman-lora-server-cpu']}" in cpu
    assert f"pointsman-retriever:{version()}" in cpu
    assert any(image.endswith(DIGESTS["valkey"]) for image in cpu)
    cuda = f"{PLACE}/pointsman-lora-server-cuda:{version()}@{DIGESTS['pointsman-lora-server-cuda']}"
    assert cuda in _images(k8s / "overlays" / "gpu")
    assert _images(k8s / "jobs" / "training") == {cuda}


def test_a_later_push_replaces_the_previous_digest(k8s: Path) -> None:
    pin([pushed(f"{PLACE}/pointsman-gateway:0.1.0@{DIGESTS['valkey']}")], k8s)
    pin([pushed(f"other.example/pointsman-gateway@{DIGESTS['pointsman-gateway']}")], k8s)
    (line,) = [
        image
        for image in yaml.safe_load((k8s / "components/images/kustomization.yaml").read_text())["images"]
        if image["name"] == "pointsman-gateway"
    ]
    assert line == {
        "name": "pointsman-gateway",
        "newName": "other.example/pointsman-gateway",
        "digest": DIGESTS["pointsman-gateway"],
        "newTag": version(),
    }


def test_another_version_removes_the_previous_digest(k8s: Path) -> None:
    pin([pushed(f"{PLACE}/{name}@{digest}") for name, digest in DIGESTS.items()], k8s)
    text = (k8s / "components" / "images" / "kustomization.yaml").read_text()
    (around,) = {around for pattern, around in PLACES if pattern.startswith("deploy/k8s/components")}
    assert renewed(text, around, version()) == text
    later = yaml.safe_load(renewed(text, around, "9.9.9"))["images"]
    assert {image["name"]: (image["newTag"], "digest" in image) for image in later if image["name"] != "haproxy"} == {
        "pointsman-gateway": ("9.9.9", False),
        "pointsman-retriever": ("9.9.9", False),
        "valkey": ("8.1.4-alpine", True),
    }


def test_an_image_that_no_manifest_uses_is_rejected_without_changes(k8s: Path) -> None:
    file = k8s / "components" / "images" / "kustomization.yaml"
    before, digest = file.read_text(), DIGESTS["pointsman-gateway"]
    images = [pushed(f"{PLACE}/{name}@{digest}") for name in ("pointsman-gateway", "pointsman-gatway")]
    with pytest.raises(ValueError, match=r"no manifest uses pointsman-gatway; there are .*pointsman-gateway"):
        pin(images, k8s)
    with pytest.raises(ValueError, match="no image is named"):
        pin([], k8s)
    assert file.read_text() == before


@pytest.mark.parametrize(
    "reference", ["pointsman-gateway:0.1.0", "pointsman-gateway@sha256:abc", "@sha256:" + "0" * 64]
)
def test_a_reference_without_a_digest_is_rejected(reference: str) -> None:
    with pytest.raises(ValueError, match=r"names no digest; write registry\.example/team"):
        pushed(reference)
