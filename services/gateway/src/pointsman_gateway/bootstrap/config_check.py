"""Checks a configuration without any service, as `--check` and each reload do before the stages are built."""

from pointsman_gateway.bootstrap.strategies import build_strategy, compile_prompts
from pointsman_gateway.bootstrap.validation import to_guardrails, to_validators
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import Config
from pointsman_gateway.domain import Vector
from pointsman_gateway.extensions import Found


def check_config(config: Config) -> None:
    """Checks a configuration without any service: renders each prompt, builds each validator. Raises ConfigError."""
    for name, task in config.tasks.tasks.items():
        to_validators(name, task)
    to_guardrails(config, None)
    templates = compile_prompts(config)
    if templates is None:
        return
    for name, path in config.paths.paths.items():
        for strategy in path.strategies:
            try:
                build_strategy(strategy, templates, config, None, _NoSearch())
            except ValueError as error:
                raise ConfigError(f"paths.yaml: path '{name}': {error}") from error


class _NoSearch:
    """Takes the retriever's place while a configuration is only checked: it finds nothing. Implements `Search`."""

    async def search(self, collection: str, query: str, vector: Vector | None, top_k: int, deadline: float) -> Found:
        return Found((), False)
