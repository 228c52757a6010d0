"""Making the models that one machine needs, once; both makers do nothing where their model is there."""

from collections.abc import Callable

from pointsman_cli.data_dir import DataDir
from pointsman_cli.engine_environment import EngineEnvironment
from pointsman_cli.errors import CommandError
from pointsman_cli.processes import run_to_end

_Say = Callable[[str], None]


async def prepare_base_model(name: str, data_dir: DataDir, engine: EngineEnvironment, say: _Say) -> None:
    """In the engine's environment, which has torch and transformers."""
    program = engine.module("pointsman_lora_server.base_model", str(data_dir.model(name)))
    ended = await run_to_end(program, engine.variables, say)
    if ended.code != 0:
        raise CommandError(f"the base model {name} could not be made: {ended.how}")


async def prepare_embedding_model(python: str, data_dir: DataDir, say: _Say) -> None:
    """In the services' environment, whose `python` this is."""
    program = [python, "-m", "pointsman_embedding.prepare", str(data_dir.embedding_model)]
    ended = await run_to_end(program, {"PYTHONUNBUFFERED": "1"}, say)
    if ended.code != 0:
        raise CommandError(f"the embedding model could not be made: {ended.how}")
