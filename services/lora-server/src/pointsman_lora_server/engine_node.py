"""Runs the share of an engine on one of its further nodes: `python -m pointsman_lora_server.engine_node`.

An engine over several nodes has its lora-server on the first, which starts vLLM there and manages the adapters. On each
other node this program becomes vLLM's workers, with the same settings, which read adapters from the same folders.
"""

import os
import sys
from dataclasses import replace

from pointsman_servicekit import logs
from pointsman_servicekit.setting_names import require_known_settings

from pointsman_lora_server import engine_bootstrap
from pointsman_lora_server.engine.command import EngineCommand
from pointsman_lora_server.settings import Settings

_SERVER = ("-m", "vllm.entrypoints.openai.api_server")
_WORKERS = ("-m", "vllm.entrypoints.cli.main", "serve")


def main() -> None:
    """Replaces this process by vLLM."""
    try:
        require_known_settings("POINTSMAN_LORA_", Settings.model_fields, os.environ, {"POINTSMAN_LORA_SERVER"})
        settings = Settings()
        logs.configure_logging("engine-node", settings.log_level, settings.log_format)
        command = node_command(settings)
    except (ValueError, OSError) as error:
        sys.exit(f"pointsman_lora_server.engine_node: {error}")
    os.execve(command.arguments[0], command.arguments, dict(command.environment))


def node_command(settings: Settings) -> EngineCommand:
    """Returns the command of vLLM's workers on this node.

    Raises ValueError if the settings do not determine it on all nodes alike, OSError if vLLM's Python does not exist.
    """
    if settings.held is None:
        raise ValueError("set POINTSMAN_LORA_HELD: all nodes of an engine hold the same number of adapters")
    command = engine_bootstrap.command_for(engine_bootstrap.with_context_window(settings), os.environ)
    if command is None:
        raise ValueError("POINTSMAN_LORA_ENGINE_URL names an engine that runs already: it starts its nodes itself")
    return replace(command, arguments=headless(command.arguments))


def headless(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the arguments that start vLLM without its API server, from those that start it with one; raises
    ValueError for any others.
    """
    python, *server, model_option, model = arguments[:5]
    if (*server, model_option) != (*_SERVER, "--model"):
        raise ValueError(f"this is no command of vLLM's API server: {' '.join(arguments[:5])}")
    return (python, *_WORKERS, model, "--headless", *arguments[5:])


if __name__ == "__main__":
    main()
