"""Fixtures for tests of rolling restarts: an embedding model, and a configuration without adapters."""

from pathlib import Path

import pytest

from tests.gateway.doubles.config_folder import ConfigFolder


@pytest.fixture
def config_folder(tmp_path: Path) -> ConfigFolder:
    config = ConfigFolder(tmp_path / "config")
    config.paths = {name: path for name, path in config.paths.items() if "adapter" not in path}
    config.tasks["triage"]["policy"] = {"fixed": "triage_few_shot"}
    return config
