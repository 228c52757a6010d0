"""uv installs the same as pip would: pip's settings are read from pip, and become uv's arguments."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from deploy.supply.install import ALIKE, read_settings, uv_arguments

ROOT = Path(__file__).parents[2]
CONFIGURATION = """
[global]
index-url = https://mirror.example/simple
find-links =
    /srv/wheels
    /srv/more
timeout = 60
no-cache-dir = false

[install]
index-url = https://team.example/simple
constraint = /etc/limits.txt

[download]
prefer-binary = true
"""


def list_settings(file: Path, **environment: str) -> str:
    """Returns the output of `pip config list` with this file and environment only."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    # pip reads this file last, so what the machine sets for all users is only seen where the file is silent.
    command = [sys.executable, "-m", "pip", "config", "list"]
    return subprocess.run(
        command, env={**own, "PIP_CONFIG_FILE": str(file), **environment}, check=True, capture_output=True, text=True
    ).stdout


def test_pips_settings_become_uvs_arguments(tmp_path: Path) -> None:
    (tmp_path / "pip.conf").write_text(CONFIGURATION)
    more = "https://a.example https://b.example"
    listing = list_settings(tmp_path / "pip.conf", PIP_EXTRA_INDEX_URL=more, PIP_PRE="1")

    arguments = uv_arguments(read_settings(listing))

    assert arguments[: len(ALIKE)] == ALIKE
    assert {argument for argument in arguments if not argument.startswith("--cert=")} - set(ALIKE) == {
        "--index-url=https://team.example/simple",
        "--find-links=/srv/wheels",
        "--find-links=/srv/more",
        "--constraint=/etc/limits.txt",
        "--extra-index-url=https://a.example",
        "--extra-index-url=https://b.example",
        "--pre",
    }


def test_the_environment_overrides_the_files(tmp_path: Path) -> None:
    (tmp_path / "pip.conf").write_text(CONFIGURATION)
    listing = list_settings(tmp_path / "pip.conf", PIP_INDEX_URL="https://mine.example", PIP_NO_CACHE_DIR="1")

    settings = read_settings(listing)

    assert settings["index-url"] == "https://mine.example"
    assert "--no-cache-dir" in uv_arguments(settings)
    assert "prefer-binary" not in settings  # it is set for `pip download` only


def test_a_setting_without_a_counterpart_is_named(tmp_path: Path) -> None:
    (tmp_path / "pip.conf").write_text("[global]\nonly-binary = :all:\n")

    with pytest.raises(LookupError, match="only-binary"):
        uv_arguments(read_settings(list_settings(tmp_path / "pip.conf")))


def test_pip_installs_where_uv_is_not_to_be_had(tmp_path: Path) -> None:
    wheel = tmp_path / "parcel-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("parcel.py", "CONTENT = 'arrived'\n")
        archive.writestr("parcel-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: parcel\nVersion: 1.0\n")
        archive.writestr("parcel-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("parcel-1.0.dist-info/RECORD", "")

    no_index = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    command = [sys.executable, "deploy/supply/install.py", f"{tmp_path}/venv", str(wheel)]
    installed = subprocess.run(command, cwd=ROOT, env=no_index, check=True, capture_output=True, text=True)

    assert "installing with pip" in installed.stderr
    subprocess.run(
        [tmp_path / "venv/bin/python", "-c", "import parcel; assert parcel.CONTENT == 'arrived'"], check=True
    )
