"""Fixtures for all tests. They restore the umask, and silence gRPC's log lines, because tests read standard error.

All gateways of a run share their fitted classifiers, since a fit takes a second.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pointsman_embedding import MiniLM

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
CLASSIFIERS = "POINTSMAN_GATEWAY_CLASSIFIER_CACHE"
_own_classifiers = ""


def pytest_configure(config: pytest.Config) -> None:
    global _own_classifiers  # a hook has no other place for its state
    if CLASSIFIERS not in os.environ:  # the processes of a parallel run inherit it
        _own_classifiers = os.environ[CLASSIFIERS] = tempfile.mkdtemp(prefix="pointsman-classifiers-")


def pytest_unconfigure(config: pytest.Config) -> None:
    if _own_classifiers:
        shutil.rmtree(_own_classifiers, ignore_errors=True)


@pytest.fixture(autouse=True)
def restored_umask() -> Iterator[None]:
    """Restores the umask after each test, because `pointsman up` sets a private one and some tests run it in this
    process.
    """
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)


@pytest.fixture(scope="session")
def model_folder() -> Path:
    """Returns the folder of the embedding model, which is made once and stored in the project's `.pointsman`."""
    from pointsman_embedding.prepare import prepare  # imported here: most tests need no model

    folder = Path(__file__).parents[1] / ".pointsman" / "models" / "minilm"
    prepare(folder)
    return folder


@pytest.fixture(scope="session")
def minilm(model_folder: Path) -> "MiniLM":
    from pointsman_embedding import MiniLM

    return MiniLM.load(model_folder)
