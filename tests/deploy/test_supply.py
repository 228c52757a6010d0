"""The images' supply chain: locked dependencies, licences, consistent versions, and known vulnerabilities."""

import json
import re
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.supply import audit, versions
from deploy.supply.images import (
    BUILD,
    CUDA_ENGINE,
    ENGINE,
    ENGINE_REQUIREMENTS,
    GATEWAY_LITELLM,
    IMAGES,
    PROJECT,
    RETRIEVER_GPU,
    TRAINING,
    TRAINING_REQUIREMENTS,
    Image,
    locked,
)
from deploy.supply.licences import is_accepted, licence_of, listed, packages
from deploy.supply.lock import restored_on_failure, without, without_torch

VARIANTS = (RETRIEVER_GPU, GATEWAY_LITELLM)
LOCKS = (*IMAGES, *VARIANTS, BUILD, ENGINE, TRAINING)


def _named(image: Image) -> Any:
    return image.name


# -- locks


@pytest.mark.parametrize("image", LOCKS, ids=_named)
def test_every_locked_package_has_hashes_and_no_source_url(image: Image) -> None:
    assert [each.name for each in locked(image.lock) if not each.hashes] == []
    assert not re.search(r"://|--index|--find|@ file|@ git", image.lock.read_text())


@pytest.mark.parametrize("image", [*IMAGES, *VARIANTS], ids=_named)
def test_a_lock_file_satisfies_all_requirements_of_its_distributions(image: Image) -> None:
    pins: dict[str, list[str]] = {}
    for each in locked(image.lock):
        pins.setdefault(each.name, []).append(each.version)
    ours = {_project(folder)["name"] for folder in image.distributions}
    asked = [requirement for requirement in _asked(image) if requirement.name not in ours]
    assert asked
    unfit = [str(r) for r in asked if not all(map(r.specifier.contains, pins.get(canonicalize_name(r.name), ["0"])))]
    assert unfit == [], "make locks"


@pytest.mark.parametrize("image", IMAGES, ids=_named)
def test_an_image_contains_all_required_distributions_of_this_project(image: Image) -> None:
    ours = {_project(folder)["name"] for folder in image.distributions}
    assert {r.name for r in _asked(image) if r.name.startswith("pointsman-")} <= ours


def _project(folder: str) -> dict[str, Any]:
    return dict(tomllib.loads((PROJECT / folder / "pyproject.toml").read_text())["project"])


def _asked(image: Image) -> list[Requirement]:
    written = [text for folder in image.distributions for text in _project(folder)["dependencies"]]
    for extra in image.extras:
        written += _project(image.distributions[-1])["optional-dependencies"][extra]
    return [Requirement(text) for text in written]


def test_the_engines_lock_file_satisfies_vllm_and_the_trainer_except_torch() -> None:
    pins = {each.name: each.version for each in locked(ENGINE.lock)}
    folder = PROJECT / "services" / "lora-server" / "engine"
    lines = [line.partition("#")[0].strip() for line in (folder / "requirements-cpu.txt").read_text().splitlines()]
    asked = [Requirement(line) for line in (*lines, ENGINE_REQUIREMENTS[-1]) if line]
    unfit = [str(r) for r in asked if not r.specifier.contains(pins.get(canonicalize_name(r.name), "0"))]
    assert unfit == [next(line for line in lines if line.startswith("torch=="))], "make locks"
    assert [name for name in pins if name.startswith(("nvidia-", "cuda-"))] == []


def test_vllm_is_the_same_in_the_images_as_on_this_machine() -> None:
    assert f"VLLM := {ENGINE_REQUIREMENTS[-1]}\n" in (PROJECT / "Makefile").read_text()
    dockerfile = (PROJECT / "deploy" / "docker" / "engine-cuda.Dockerfile").read_text()
    version = CUDA_ENGINE.partition("==")[2]
    assert f"ARG BASE_IMAGE=vllm/vllm-openai:v{version}\n" in dockerfile
    assert ENGINE_REQUIREMENTS[-1].endswith(f"=={version}")


def test_trainings_on_gpus_have_the_versions_of_those_on_cpus_and_replace_nothing_of_vllm() -> None:
    pins = {each.name: each.version for each in locked(TRAINING.lock)}
    asked = [Requirement(text) for text in TRAINING_REQUIREMENTS]
    assert {requirement.name for requirement in asked} == {"peft", "trl", "bitsandbytes"}
    assert [str(r) for r in asked if not r.specifier.contains(pins.get(r.name, "0"))] == [], "make locks"
    on_cpus = {each.name: each.version for each in locked(ENGINE.lock)}
    assert {name: on_cpus.get(name) for name in pins} == pins
    assert not pins.keys() & {"torch", "transformers", "numpy", "vllm", "triton"}
    assert CUDA_ENGINE in TRAINING.lock.read_text().partition("\n")[0], "make locks"


def test_a_lock_without_torch_keeps_all_others_whole() -> None:
    hashed = " \\\n    --hash=sha256:" + "0" * 64 + "\n"
    text = {
        name: f"{name}==1{hashed}" for name in ("cuda-toolkit", "numpy", "nvidia-nvtx", "torch", "torchao", "triton")
    }
    assert without_torch("".join(text.values())) == text["numpy"] + text["torchao"] + text["triton"]


def test_a_lock_without_known_packages_keeps_all_others_whole() -> None:
    hashed = " \\\n    --hash=sha256:" + "0" * 64 + "\n"
    text = {name: f"{name}==1{hashed}" for name in ("numpy", "numpydoc", "peft")}
    assert without({"numpy"}, "".join(text.values())) == text["numpydoc"] + text["peft"]


@pytest.mark.parametrize("before", ["numpy==1\n", None])
def test_a_lock_file_that_could_not_be_written_is_as_before(before: str | None, tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    if before:
        lock.write_text(before)

    def fail() -> None:
        with restored_on_failure(lock):
            lock.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (lock.read_text() if lock.exists() else None) == before


def test_an_unpinned_line_is_rejected(tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text("numpy>=2\n")
    with pytest.raises(ValueError, match="this is no pin and no hash: numpy>=2"):
        list(locked(lock))


def test_packages_for_other_platforms_are_in_no_image(tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text("one==1 ; sys_platform == 'win32' \\\n    --hash=sha256:" + "0" * 64 + "\ntwo==2\n")
    assert [(each.name, each.version, each.is_for_linux) for each in locked(lock)] == [
        ("one", "1", False),
        ("two", "2", True),
    ]


# -- licences


def test_the_page_of_licences_lists_what_is_in_the_images() -> None:
    assert listed().keys() == packages().keys(), "make licences"


def test_every_licence_is_permissive() -> None:
    assert {name: licence for name, licence in listed().items() if not is_accepted(licence)} == {}


def test_listed_licences_equal_the_packages_metadata() -> None:
    installed = {each.metadata["Name"] for each in metadata.distributions() if each.metadata["Name"]}
    here = {canonicalize_name(name) for name in installed}
    compared = {name: licence for name, licence in listed().items() if name in here}
    assert len(compared) > 60
    assert {name: licence_of(name) for name in compared} == compared, "make licences"


@pytest.mark.parametrize(
    ("expression", "accepted"),
    [
        ("MIT", True),
        ("Apache-2.0 AND MIT", True),
        ("GPL-3.0-only", False),
        ("AGPL-3.0-only AND MIT", False),
        ("GPL-2.0-only OR MIT", True),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", True),
        ("MIT AND (GPL-3.0-only OR LGPL-3.0-only)", False),
        ("unknown", False),
        ("", False),
    ],
)
def test_a_copyleft_licence_is_rejected(expression: str, accepted: bool) -> None:
    assert is_accepted(expression) is accepted


# -- versions


def test_all_versions_equal_that_of_the_changelog() -> None:
    written = list(versions.written())
    folders = {file.parent.name for file, _ in written if file.name == "pyproject.toml"}
    assert folders >= {"proto", "servicekit", "gateway", "retriever", "lora-server", "cli", "vllm_cpu_lora", "guard"}
    assert {file.suffix for file, _ in written} == {".toml", ".Dockerfile", ".yaml"}
    assert {(str(file), version) for file, version in written if version != versions.version()} == set()


def test_every_distribution_is_checked() -> None:
    tracked = [f for f in PROJECT.glob("*/**/pyproject.toml") if not any(part.startswith(".") for part in f.parts[1:])]
    with_versions = {file for file in tracked if "version" in tomllib.loads(file.read_text()).get("project", {})}
    assert with_versions == {file for file, _ in versions.written() if file.name == "pyproject.toml"}


def test_an_invalid_version_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"'v2' is no version; write one such as 1\.2\.3"):
        versions.write("v2")


# -- known vulnerabilities


@pytest.mark.parametrize(
    ("version", "affected"),
    [("1.9", False), ("2.0", True), ("2.4.1", True), ("2.5", False), ("3.0", True), ("3.1", False)],
)
def test_a_version_is_affected_within_a_range_and_not_where_it_is_fixed(version: str, affected: bool) -> None:
    events = [{"introduced": "2.0"}, {"fixed": "2.5"}, {"introduced": "3.0"}, {"last_affected": "3.0"}]
    assert audit.is_affected(version, {"ranges": [{"type": "ECOSYSTEM", "events": events}]}) is affected


def test_only_advisories_for_locked_versions_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pydantic = next(each for each in locked(IMAGES[0].lock) if each.name == "pydantic")
    _advise(tmp_path, "PYSEC-1", "Pydantic", pydantic.version, "99.0")
    _advise(tmp_path, "PYSEC-2", "pydantic", "0", "0.1")
    assert audit.main([str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert f"gateway: pydantic {pydantic.version}: PYSEC-1 (fixed in 99.0) it lets everybody in" in lines
    assert not [line for line in lines if "PYSEC-2" in line]


def test_an_export_in_one_file_is_read_and_an_empty_one_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _advise(tmp_path, "PYSEC-3", "pydantic", "0", "0.1")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(tmp_path / "PYSEC-3.json", "PYSEC-3.json")
    assert audit.main([str(tmp_path / "all.zip")]) == 0
    (tmp_path / "empty").mkdir()
    assert audit.main([str(tmp_path / "empty")]) == 2
    assert "holds no records of PyPI's packages" in capsys.readouterr().err


def _advise(folder: Path, name: str, package: str, introduced: str, fixed: str) -> None:
    ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": introduced}, {"fixed": fixed}]}]
    affected = [{"package": {"ecosystem": "PyPI", "name": package}, "ranges": ranges}]
    record = {"id": name, "summary": "it lets everybody in", "affected": affected}
    (folder / f"{name}.json").write_text(json.dumps(record))
