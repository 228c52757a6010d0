"""Facts on a training method are read in the environment in which its code is installed."""

import sys
from pathlib import Path

import pytest
from pointsman_lora_server.jobs import method
from pointsman_lora_server.jobs.job import JobEnvironment
from pointsman_lora_server.jobs.method import MethodFacts, describe_method
from pointsman_lora_server.training.methods import installed_methods
from pointsman_servicekit.errors import FailedPrecondition, InvalidArgument

OWN_METHODS = """
print("loaded")
from pointsman_lora_server.training.methods.method import TrainingMethod

class Kto(TrainingMethod):
    name = "kto"
    learns_from_pairs = True
"""


@pytest.fixture
def environment(tmp_path: Path) -> JobEnvironment:
    """Returns an environment with two modules of a user, which this process cannot import."""
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "own_methods.py").write_text(OWN_METHODS)
    (modules / "endless.py").write_text("while True: pass")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH:{modules}" exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    own = {"kto": "own_methods:Kto", "gone": "own_methods:Gone", "endless": "endless:Method"}
    return JobEnvironment(tmp_path / "jobs", python, tmp_path / "base", "tiny", {}, installed_methods() | own)


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("lora", MethodFacts(learns_from_pairs=False, must_be_merged=False)),
        ("dora", MethodFacts(learns_from_pairs=False, must_be_merged=True)),
        ("dpo", MethodFacts(learns_from_pairs=True, must_be_merged=False)),
        ("kto", MethodFacts(learns_from_pairs=True, must_be_merged=False)),
    ],
)
async def test_a_method_says_itself_what_it_learns_from(
    environment: JobEnvironment, name: str, facts: MethodFacts
) -> None:
    assert await describe_method(environment, name) == facts


async def test_a_method_that_cannot_be_loaded_is_reported_with_the_reason(environment: JobEnvironment) -> None:
    with pytest.raises(FailedPrecondition, match=r"'gone' cannot be loaded .* has no attribute 'Gone'"):
        await describe_method(environment, "gone")


async def test_a_method_whose_import_does_not_end_is_given_up(
    environment: JobEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(method, "DESCRIBE_SECONDS", 0.5)
    with pytest.raises(FailedPrecondition, match="'endless' cannot be loaded"):
        await describe_method(environment, "endless")


async def test_an_unknown_method_is_refused_with_the_known_ones(environment: JobEnvironment) -> None:
    with pytest.raises(InvalidArgument, match=r"no training method 'dop'; known: lora, .*kto"):
        await describe_method(environment, "dop")
