"""Fixtures of all rolling restarts: an embedding model, and a configuration without adapters."""

from pathlib import Path

import pytest
from pointsman_embedding.prepare import prepare

from tests.gateway.doubles.config_folder import ConfigFolder
from tests.gateway.doubles.deployment import MODEL


@pytest.fixture(scope="session")
def model_folder() -> Path:
    prepare(MODEL)
    return MODEL


@pytest.fixture
def config_folder(tmp_path: Path) -> ConfigFolder:
    config = ConfigFolder(tmp_path / "config")
    config.paths = {name: path for name, path in config.paths.items() if "adapter" not in path}
    config.tasks["triage"]["policy"] = {"fixed": "triage_few_shot"}
    return config
