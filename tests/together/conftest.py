"""One real help desk for all tests of this folder, through `pointsman up`: Valkey, retriever, vLLM, gateway."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.standing import EXAMPLE, Standing, standing


@pytest.fixture(scope="session")
def help_desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    """With a copy of the configuration, which a test may edit."""
    home = tmp_path_factory.mktemp("home")
    with standing(Path(shutil.copytree(EXAMPLE, home / "helpdesk")), home) as it:
        yield it
