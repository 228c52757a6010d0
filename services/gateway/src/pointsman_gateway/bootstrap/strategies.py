"""Compiles the prompt files, and builds the prompt strategies of the paths."""

from typing import TYPE_CHECKING

from pointsman_gateway.bootstrap.loaded_models import LoadedModels
from pointsman_gateway.config.field_types import ConfigError, StrategyConfig
from pointsman_gateway.config.load import Config, errors_naming
from pointsman_gateway.domain import Vector
from pointsman_gateway.extensions import Search, Strategy, StrategyContext

if TYPE_CHECKING:  # not imported by a gateway without tasks and prompts, for the sake of its memory
    from pointsman_gateway.prompts.templates import PromptTemplates


def build_strategies(config: Config, models: LoadedModels | None, search: Search) -> dict[str, list[Strategy]]:
    """Builds the prompt strategies of each path: path name -> strategies, in the order in which they change the prompt.

    `search` finds passages in the retriever. `models` is None if the configuration is only checked. Raises ConfigError
    if a prompt file is no valid template, or if a strategy cannot be built.
    """
    with errors_naming(config.single_file):
        templates = _compile_prompts(config)
        if templates is None:
            return {name: [] for name in config.paths.paths}
        built: dict[str, list[Strategy]] = {}
        for name, path in config.paths.paths.items():
            try:
                built[name] = [_build_strategy(one, templates, config, models, search) for one in path.strategies]
            except ValueError as error:
                raise ConfigError(f"paths.yaml: path '{name}': {error}") from error
        return built


def _compile_prompts(config: Config) -> "PromptTemplates | None":
    """Compiles the prompt files; returns None if there are neither prompt files nor strategies.

    Raises ConfigError if a file is no valid template.
    """
    if not config.prompts and not any(path.strategies for path in config.paths.paths.values()):
        return None
    from pointsman_gateway.prompts.templates import PromptTemplates

    return PromptTemplates(config.prompts)


def _build_strategy(
    config: StrategyConfig, templates: "PromptTemplates", whole: Config, models: LoadedModels | None, search: Search
) -> Strategy:
    """Builds one prompt strategy of a path; raises ValueError, such as ConfigError, if its options cannot be used.

    `whole` is the configuration that has the strategy, from which the examples are taken.
    """
    tasks = [task for task, _ in config.resources.examples]
    examples = {task: whole.examples[task] for task in tasks}
    vectors = {task: models.vectors[task] if models else _zeros(len(rows)) for task, rows in examples.items()}
    embed = models.embed if models else None
    strategy: Strategy = config.build(StrategyContext(templates, search, embed, examples, vectors))
    return strategy


def _zeros(rows: int) -> Vector:
    """Returns vectors of zeros in the shape (rows, 1), to check a configuration without the embedding model."""
    import numpy as np  # a gateway without tasks does not need it

    return np.zeros((rows, 1), np.float32)
