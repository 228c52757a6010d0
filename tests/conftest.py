"""For all tests: no gRPC log lines on standard error, where tests read other output; and a restored umask."""

import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


@pytest.fixture(autouse=True)
def restored_umask() -> Iterator[None]:
    """Restore the umask: `pointsman up`, which some tests run in this process, sets a private one for its children."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)
