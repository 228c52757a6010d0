"""What a release pins: the base images, the images in the chart, and the engine's version."""

import json
import os
from pathlib import Path

import pytest
import yaml

from deploy.helm.render import CHART, PROJECT, Pins, helm, package
from deploy.supply.engine_tag import engine_tag
from deploy.supply.pins import PinError, pinned, references
from tests.deploy.rendering import needs_helm

DIGEST = f"sha256:{'0123456789abcdef' * 4}"
DOCKER = """#!/bin/sh
[ "$*" = "buildx imagetools inspect --format {{{{.Manifest.Digest}}}} valkey:8" ] && echo {digest} && exit
echo "no such manifest: $6" >&2
exit 1
"""
"""A double that knows the digest of one image."""


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "docker"
    program.write_text(DOCKER.format(digest=DIGEST))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return program


def test_every_image_of_others_is_pinned() -> None:
    named = references()
    files = {file.stem for file in (PROJECT / "deploy" / "docker").glob("*.Dockerfile")}
    assert named.keys() == files - {"lora-server"} | {"valkey", "haproxy"}  # its base is our engine
    assert all(":" in reference and "@" not in reference for reference in named.values())


@pytest.mark.usefixtures("docker")
def test_a_reference_gets_the_digest_that_its_registry_reports() -> None:
    assert pinned({"valkey": "valkey:8"}) == {"valkey": f"valkey:8@{DIGEST}"}
    with pytest.raises(PinError, match="haproxy:3: no such manifest: haproxy:3"):
        pinned({"haproxy": "haproxy:3"})


def test_an_answer_that_is_no_digest_is_refused(docker: Path) -> None:
    docker.write_text("#!/bin/sh\necho latest\n")
    with pytest.raises(PinError, match="valkey:8: 'latest' is no digest"):
        pinned({"valkey": "valkey:8"})


def test_a_released_chart_names_its_images_by_digest(tmp_path: Path) -> None:
    needs_helm()
    images = {name: f"{reference}@{DIGEST}" for name, reference in references().items()}
    ours = yaml.safe_load((CHART / "values.schema.json").read_text())["properties"]["images"]["properties"]["digests"]
    names = ["pointsman-gateway", "pointsman-retriever", "pointsman-lora-server-cpu"]
    assert json.dumps(ours).count("lora-server-cuda") == 1
    package("registry.example/team", tmp_path, Pins(dict.fromkeys(names, DIGEST), images))
    (file,) = tmp_path.glob("*.tgz")
    rendered = helm("template", "pointsman", str(file), "--set", "redis.mode=sentinel,monitoring.podMonitors=true")
    used = {line.split("image: ")[1] for line in rendered.splitlines() if line.strip().startswith("image: ")}
    assert len(used) >= 4
    assert [image for image in used if not image.endswith(f"@{DIGEST}")] == []


def test_an_engines_tag_changes_with_what_the_engine_is_made_of_and_nothing_else(tmp_path: Path) -> None:
    docker = tmp_path / "deploy" / "docker"
    docker.mkdir(parents=True)
    (docker / "engine.Dockerfile").write_text("COPY lock.txt plugin /src/\nCOPY --from=build /opt /opt\n")
    (tmp_path / "lock.txt").write_text("vllm==1\n")
    (tmp_path / "plugin" / "__pycache__").mkdir(parents=True)
    (tmp_path / "plugin" / "kernel.py").write_text("1\n")

    def tag(base: str = "python:3@sha256:0") -> str:
        return engine_tag("engine", base, tmp_path)

    first = tag()
    (tmp_path / "plugin" / "__pycache__" / "kernel.pyc").write_text("")
    (tmp_path / "gateway.py").write_text("")
    assert tag() == first
    assert tag("python:3@sha256:1") != first
    (tmp_path / "plugin" / "kernel.py").write_text("2\n")
    assert tag() != first


@pytest.mark.parametrize("name", ["engine-cpu", "engine-cuda"])
def test_an_engine_is_not_made_of_the_services(name: str) -> None:
    copied = [
        word
        for line in (PROJECT / "deploy" / "docker" / f"{name}.Dockerfile").read_text().splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    ]
    services = [path for path in copied if path.endswith("/src") or path.count("/") < 2]
    assert copied
    assert services == []
