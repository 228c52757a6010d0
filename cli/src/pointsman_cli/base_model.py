"""The base model that `pointsman up` serves: the built-in one, a folder, or a model of the Hugging Face hub."""

import json
import os
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from pointsman_cli.data_dir import DataDir, make_private
from pointsman_cli.engine_environment import EngineEnvironment
from pointsman_cli.errors import CommandError, UsageError
from pointsman_cli.processes import run_to_end

BUILT_IN = "smollm2-135m"
BUILT_IN_CONTEXT = 4096
MAX_CONTEXT, MAX_CONTEXT_WITH_GPU = 8192, 32768
"""Tokens up to which a model's context window is used by default. The KV cache of one request grows with it."""
CONTEXT_VARIABLE, ARGUMENTS_VARIABLE = "POINTSMAN_LORA_MAX_MODEL_LEN", "POINTSMAN_LORA_ENGINE_ARGS"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SERVED_NAME = re.compile(r"[!-~]{1,200}")


@dataclass(frozen=True, slots=True)
class BaseModel:
    name: str
    """Under which the engine serves it, and the configuration names it."""
    folder: Path
    hub_name: str = ""
    """Empty unless it is downloaded."""
    context_window: int = 0
    """Tokens that the engine uses; 0 for the lora-server's default, as of the built-in model."""
    engine_arguments: str = ""
    """More arguments for vLLM, quoted as in a shell."""
    is_built_in: bool = False
    """Whether it is the model that a wheel contains, which is made on first use."""

    @property
    def environment(self) -> dict[str, str]:
        """Returns the environment variables that make the lora-server serve this model."""
        arguments = " ".join(filter(None, (os.environ.get(ARGUMENTS_VARIABLE, ""), self.engine_arguments)))
        return {
            "POINTSMAN_LORA_BASE_MODEL": str(self.folder),
            "POINTSMAN_LORA_SERVED_MODEL_NAME": self.name,
            **({CONTEXT_VARIABLE: str(self.context_window)} if self.context_window else {}),
            **({ARGUMENTS_VARIABLE: arguments} if arguments else {}),
        }


def locate_base_model(written: str, relative_to: Path, data_dir: DataDir) -> BaseModel:
    """Returns where the model named in the command or example is stored, without reading it. Raises UsageError."""
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
    """Downloads and checks the model that a user named; raises CommandError if it cannot be served."""
    if model.is_built_in:  # it is made later, when the services start
        return replace(model, engine_arguments=shlex.join(arguments))
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
    context = int(os.environ.get(CONTEXT_VARIABLE) or min(facts["context_window"], limit))
    on_line(
        f"{facts['architecture']}, {facts['weight_bytes'] / 2**30:.1f} GiB, {facts['layers']} adaptable layers, "
        f"context window {context} of {facts['context_window']} tokens"
    )
    return replace(model, context_window=context, engine_arguments=shlex.join(arguments))


def write_model_config(model: BaseModel, heading: str, tasks: dict[str, Any], data_dir: DataDir) -> Path:
    """Writes the configuration of `pointsman up --model`; returns its folder."""
    config = {
        "base_model": BUILT_IN if model.is_built_in else model.hub_name or str(model.folder),
        "models": {model.name: {"context_window": model.context_window, "usd_per_million_tokens": "unknown"}},
        "engines": {"local": {"model": model.name, "lora_server": "${POINTSMAN_LORA_SERVER}"}},
        "paths": {"default": {"model": model.name}},
        "default_path": "default",
        "tasks": tasks,
    }
    folder = data_dir.folder / "model"
    make_private(data_dir.folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pointsman.yaml").write_text(heading + yaml.safe_dump(config, sort_keys=False, width=120), "utf-8")
    return folder
