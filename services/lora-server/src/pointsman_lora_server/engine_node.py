"""Runs the vLLM workers on the further nodes of an engine that spans several nodes: `python -m
pointsman_lora_server.engine_node`.

The lora-server runs on the engine's first node, where it starts vLLM and manages the adapters. This program runs on
each other node, with the same settings. It becomes vLLM's workers there, which read adapters from the same folders.
"""

import os
import sys
from dataclasses import replace

from pointsman_servicekit import logs

from pointsman_lora_server import engine_bootstrap
from pointsman_lora_server.engine.command import EngineCommand
from pointsman_lora_server.settings import Settings, read_settings

_SERVER = ("-m", "vllm.entrypoints.openai.api_server")
_WORKERS = ("-m", "vllm.entrypoints.cli.main", "serve")


def main() -> None:
    """Replaces this process by vLLM's workers; exits with a message if the settings are not valid."""
    try:
        settings = read_settings()
        logs.configure_logging("engine-node", settings.log_level, settings.log_format)
        command = node_command(settings)
    except (ValueError, OSError) as error:
        sys.exit(f"pointsman_lora_server.engine_node: {error}")
    os.execve(command.arguments[0], command.arguments, dict(command.environment))


def node_command(settings: Settings) -> EngineCommand:
    """Returns the command that starts vLLM's workers on this node.

    Raises ValueError if the setting HELD is missing (each node would derive another number from its own memory), if the
    settings attach to a running engine, or if another setting is not valid.
    """
    if settings.held is None:
        raise ValueError("set POINTSMAN_LORA_HELD: all nodes of an engine hold the same number of adapters")
    command = engine_bootstrap.command_for(engine_bootstrap.with_context_window(settings), os.environ)
    if command is None:
        raise ValueError("POINTSMAN_LORA_ENGINE_URL names an engine that runs already: it starts its nodes itself")
    return replace(command, arguments=headless(command.arguments))


def headless(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """Converts the command that starts vLLM's API server to a command that starts only its workers.

    Raises ValueError if `arguments` do not start vLLM's API server.
    """
    python, *server, model_option, model = arguments[:5]
    if (*server, model_option) != (*_SERVER, "--model"):
        raise ValueError(f"the command is not that of vLLM's API server: {' '.join(arguments[:5])}")
    return (python, *_WORKERS, model, "--headless", *arguments[5:])


if __name__ == "__main__":
    main()
