"""The real model, which is made once and stored in the project's `.pointsman`."""

from pathlib import Path

import pytest
from pointsman_embedding import MiniLM
from pointsman_embedding.prepare import prepare

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def model_folder() -> Path:
    folder = PROJECT / ".pointsman" / "models" / "minilm"
    prepare(folder)
    return folder


@pytest.fixture(scope="session")
def minilm(model_folder: Path) -> MiniLM:
    return MiniLM.load(model_folder)
