"""Fixtures: the metrics that the services export, read from their own registries, and Prometheus's tools if they are
installed."""

import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from pointsman_embedding.prepare import prepare
from prometheus_client import CollectorRegistry

from deploy.docs.sources import build_registries, families

MODEL = Path(__file__).parents[2] / ".pointsman" / "models" / "minilm"
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}

PATIENCE = 300
"""Time limit of one command in seconds."""

Exported = Mapping[str, frozenset[str]]
"""By the name of a sample, the names of its labels."""


@pytest.fixture(scope="session")
def tool() -> Callable[..., str]:
    """Returns a function that returns the first installed program of several; the function skips the test if there is
    none.
    """

    def tool(*names: str) -> str:
        found = next(filter(None, map(shutil.which, names)), None)
        if found is None:
            pytest.skip(f"{names[0]} is not installed: make monitoring-tools")
        return found

    return tool


@pytest.fixture(scope="session")
def say(tool: Callable[..., str]) -> Callable[..., str]:
    """Returns a function that runs a program, which must exit with `status`, and returns its output."""

    def say(program: str, *words: str, status: int = 0) -> str:
        command = [tool(program), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr if status else done.stdout

    return say


@pytest.fixture(scope="session")
def registries() -> Mapping[str, CollectorRegistry]:
    """The registries of all three services, with all features configured."""
    prepare(MODEL)
    return build_registries(MODEL)


@pytest.fixture(scope="session")
def exported(registries: Mapping[str, CollectorRegistry]) -> Exported:
    samples: dict[str, frozenset[str]] = {}
    for registry in registries.values():
        samples |= _samples(registry)
    return samples


def _samples(registry: CollectorRegistry) -> dict[str, frozenset[str]]:
    samples: dict[str, frozenset[str]] = {}
    for family, labels in families(registry):
        for suffix in SUFFIXES.get(family.type, ()):
            edge = {"le"} if suffix == "_bucket" else set()
            samples[family.name + suffix] = frozenset(labels) | edge
    return samples
