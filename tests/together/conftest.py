"""One real help desk for all tests of this folder, through `pointsman up`: Valkey, retriever, vLLM, gateway."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.standing import EXAMPLE, Standing, standing

ENVIRONMENT = {"POINTSMAN_LORA_PROBE_INTERVAL_SECONDS": "3600"}
"""No probe while tests compare answers to the letter: in bfloat16 a batch of two rounds otherwise than a batch of one,
and of two words that are all but as likely the other one comes."""


@pytest.fixture(scope="session")
def help_desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    """With a copy of the configuration, which a test may edit."""
    home = tmp_path_factory.mktemp("home")
    with standing(Path(shutil.copytree(EXAMPLE, home / "helpdesk")), home, ENVIRONMENT) as it:
        yield it
