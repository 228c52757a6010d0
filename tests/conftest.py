"""Fixtures for all tests: silences gRPC's log lines on standard error, which tests read, and restores the umask."""

import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


@pytest.fixture(autouse=True)
def restored_umask() -> Iterator[None]:
    """Restores the umask, because `pointsman up` sets a private one and some tests run it in this process."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)
