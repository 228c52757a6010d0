"""An export log."""

from pathlib import Path

import pytest

from tests.gateway.doubles.exports import ExportHarness


@pytest.fixture
def harness(tmp_path: Path) -> ExportHarness:
    return ExportHarness(tmp_path)
