"""One real help desk for all tests of this folder, through `pointsman up`: Valkey, retriever, vLLM, gateway."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.standing import EXAMPLE, standing


@dataclass(frozen=True)
class HelpDesk:
    url: str
    grpc: str
    run: dict[str, Any]
    """What `run.json` says: addresses and process ids."""
    config: Path
    """Its configuration folder, a copy that a test may edit."""


@pytest.fixture(scope="session")
def help_desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HelpDesk]:
    home = tmp_path_factory.mktemp("home")
    example = Path(shutil.copytree(EXAMPLE, home / "helpdesk"))
    with standing(example, home) as it:
        yield HelpDesk(it.url, it.grpc, it.run, example / "config")
