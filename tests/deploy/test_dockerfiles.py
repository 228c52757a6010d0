"""The Dockerfiles follow hadolint's rules and our own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.supply.images import ENGINE, GATEWAY_LITELLM, IMAGES, RETRIEVER_GPU, TRAINING, Image
from tests.deploy.manifest_lint import Cluster
from tests.deploy.rendering import PROJECT, overlay

FILES = sorted((PROJECT / "deploy" / "docker").glob("*.Dockerfile"))
HADOLINT = Path(sys.executable).parent / "hadolint"


def _said(file: Path) -> str:
    return subprocess.run([str(HADOLINT), str(file)], capture_output=True, text=True, check=False, timeout=60).stdout


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_hadolint_finds_nothing(file: Path) -> None:
    assert _said(file) == ""


def test_hadolint_finds_a_base_without_a_version(tmp_path: Path) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text("FROM debian:latest\nRUN cd /tmp && apt-get install curl\n")
    assert {"DL3007", "DL3003"} <= set(re.findall(r"DL\d+", _said(file)))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_image_runs_as_an_unprivileged_user_and_names_no_package_index(file: Path) -> None:
    text = file.read_text()
    assert re.findall(r"(?m)^USER (.+)$", text)[-1] == "10001:10001"
    assert re.search(r"(?m)^HEALTHCHECK ", text)
    assert "org.opencontainers.image.version" in text
    assert not re.search(r"--(extra-)?index-url|--trusted-host|https?://(?!127\.0\.0\.1)", _instructions(text))


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.name)
def test_an_image_installs_its_lock_file_with_hashes_and_its_own_distributions(image: Image) -> None:
    text = (PROJECT / "deploy" / "docker" / f"{image.name}.Dockerfile").read_text()
    installs = re.findall(r"pip install ([^\\\n&]+)", text)
    assert [line for line in installs if "--require-hashes" not in line and "--no-index --no-deps" not in line] == []
    lock = re.findall(r"(?m)^ARG LOCK=(.+)$", text)
    assert (f"-r locks/{image.lock.name}" if not lock else '-r "locks/${LOCK}.txt"') in text
    assert lock in ([], [image.lock.stem])
    assert re.findall(r"\./(\S+)", re.findall(r"--wheel-dir wheels \\\n(.+?)\\\n", text)[0]) == list(
        image.distributions
    )


@pytest.mark.parametrize("variant", [RETRIEVER_GPU, GATEWAY_LITELLM], ids=lambda image: image.name)
def test_a_variant_of_an_image_is_built_with_its_own_lock_file(variant: Image) -> None:
    (image,) = (each for each in IMAGES if each.distributions == variant.distributions)
    text = (PROJECT / "deploy" / "docker" / f"{image.name}.Dockerfile").read_text()
    assert f"--build-arg LOCK={variant.lock.stem}" in text
    assert f"deploy/docker/locks/{variant.lock.name}" in _copied(text)


def test_the_engine_image_installs_its_lock_file_with_hashes_and_torch_separately() -> None:
    text = (PROJECT / "deploy" / "docker" / "engine-cpu.Dockerfile").read_text()
    torch = re.findall(r"(?m)^ARG TORCH=(torch==\S+)$", text)[0]
    assert torch in (PROJECT / "services/lora-server/engine/requirements-cpu.txt").read_text().splitlines()
    installs = re.findall(r"pip install ([^\\\n&]+)", text)
    assert [line for line in installs if "--require-hashes" not in line and "--no-index --no-deps" not in line] == [
        '--only-binary :all: "${TORCH}" '
    ]
    assert f"-r locks/{ENGINE.lock.name}" in text


def test_the_cuda_engine_installs_what_training_needs_with_hashes() -> None:
    text = (PROJECT / "deploy" / "docker" / "engine-cuda.Dockerfile").read_text()
    (install,) = re.findall(r"pip install ([^\\\n&]+)", text)
    assert {"--require-hashes", "--no-deps", "--only-binary"} <= {*install.split()}
    assert '-c "import torch, transformers, accelerate, peft, trl, bitsandbytes"' in text
    assert f"COPY deploy/docker/locks/{TRAINING.lock.name} {install.split()[-1]}\n" in text


def test_the_build_context_equals_the_copied_files() -> None:
    sent = re.findall(r"(?m)^!(.+)$", (PROJECT / ".dockerignore").read_text())
    copied = [path for file in FILES for path in _copied(file.read_text())]
    assert [path for path in copied if not any(path == s or path.startswith(f"{s}/") for s in sent)] == []
    assert [path for path in copied if not (PROJECT / path).exists()] == []


def test_the_image_and_the_manifests_agree_on_ports() -> None:
    for name in ("gateway", "retriever", "lora-server"):
        text = (PROJECT / "deploy" / "docker" / f"{name}.Dockerfile").read_text()
        exposed = sorted(int(port) for port in re.findall(r"(?m)^EXPOSE (.+)$", text)[0].split())
        ports = Cluster.of(overlay("cpu")).workload(name).pod["containers"][0]["ports"]
        assert sorted(port["containerPort"] for port in ports) == exposed


def _instructions(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith("#"))


def _copied(text: str) -> list[str]:
    """Returns the files that the Dockerfile copies from the repository."""
    lines = re.findall(r"(?m)^COPY (?!--from)(.+)$", text)
    return [path for line in lines for path in line.split()[:-1]]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_image_names_its_source_and_commit_and_can_be_built_again(file: Path) -> None:
    text = file.read_text()
    for label, argument in (("source", "SOURCE"), ("revision", "REVISION"), ("version", "VERSION")):
        assert f'org.opencontainers.image.{label}="${{{argument}}}"' in text
        assert re.search(rf"(?m)^ARG {argument}=", text)
    assert text.count("compileall") == text.count("--invalidation-mode unchecked-hash")  # no times in bytecode
    last = text.rpartition("\nFROM ")[2]
    assert not re.search(r"\bpip install\b", last) or file.stem == "engine-cuda"
    assert not re.search(r"\b(gcc|g\+\+|build-essential)\b", last) or file.stem == "engine-cpu"  # torch compiles there
