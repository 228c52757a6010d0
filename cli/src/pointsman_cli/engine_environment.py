"""The engine's own Python environment (vLLM, PEFT), and the modules of ours that run in it."""

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from pointsman_cli.data_dir import DataDir
from pointsman_cli.errors import Misused

VARIABLE = "POINTSMAN_ENGINE_PYTHON"
LORA_PACKAGE = "pointsman_lora_server"


@dataclass(frozen=True, slots=True)
class EngineEnvironment:
    python: Path
    variables: dict[str, str]  # what its modules need beside our own environment

    def module(self, name: str, *arguments: str) -> list[str]:
        return [str(self.python), "-m", name, *arguments]


def find(data_dir: DataDir, named: Path | None) -> EngineEnvironment:
    """Raises `Misused` with what to do where there is none."""
    python = python_path(data_dir, named)
    if not os.access(python, os.X_OK) or python.is_dir():
        raise Misused(
            f"the engine's Python is not at {python}; make it with `make env`, or name it with --engine-python "
            f"or {VARIABLE}"
        )
    return EngineEnvironment(python, {"PYTHONPATH": str(package_parent(LORA_PACKAGE)), "PYTHONUNBUFFERED": "1"})


def python_path(data_dir: DataDir, named: Path | None) -> Path:
    """Where it should be. Links are kept: a virtual environment's python is one, and its target knows nothing of it."""
    if named is not None:
        return named.absolute()
    if from_variable := os.environ.get(VARIABLE):
        return Path(from_variable).absolute()
    places = [folder / ".venv-engine" / "bin" / "python" for folder in (data_dir.folder.parent, Path.cwd())]
    return next((place for place in places if place.exists()), places[0])


def package_parent(package: str) -> Path:
    """The folder that holds `package`, found without importing it; raises `Misused` where it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise Misused(f"{package} is not installed beside pointsman; install the services with `make env`")
    return Path(next(iter(spec.submodule_search_locations))).parent
