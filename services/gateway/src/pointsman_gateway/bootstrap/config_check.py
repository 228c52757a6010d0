"""Checks a configuration without calling other services: at the start, at each reload, and for `--check`."""

import os
from collections.abc import Iterator

from pointsman_gateway.bootstrap.engine_discovery import to_engine
from pointsman_gateway.bootstrap.model_calls import check_endpoints
from pointsman_gateway.bootstrap.strategies import build_strategies
from pointsman_gateway.bootstrap.tenancy import check_single_sign_on
from pointsman_gateway.bootstrap.validation import to_guardrails, to_validators
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import Config, errors_naming
from pointsman_gateway.domain import Vector
from pointsman_gateway.extensions import Found


def check_config(config: Config) -> None:
    """Builds the validators, guardrails and prompt strategies of a configuration, and renders each prompt once with
    sample values.

    Raises ConfigError if a validator, guardrail or strategy cannot be built, or a prompt cannot be rendered.
    """
    with errors_naming(config.single_file):
        for name, task in config.tasks.tasks.items():
            to_validators(name, task)
        to_guardrails(config, None)
        build_strategies(config, None, _NoSearch())


def check_environment(config: Config) -> None:
    """Checks that the environment has what a configuration refers to: API keys, secrets and the libraries of single
    sign-on. Also checks that URLs are valid.

    Raises ConfigError if something is missing or invalid. It is separate from `check_config`, so that a configuration
    can be analysed without its keys.
    """
    with errors_naming(config.single_file):
        for name, engine in config.models.engines.items():
            to_engine(name, engine)
        check_endpoints(config)
        check_single_sign_on(config.access.single_sign_on)
        for what, variable in _key_variables(config):
            if variable and not os.environ.get(variable):
                raise ConfigError(
                    f"{what} needs the environment variable {variable}, which is not set; set it to the key"
                )


def _key_variables(config: Config) -> Iterator[tuple[str, str]]:
    """Yields the environment variables with the API keys of the embedding model and of guardrails.

    Each is a pair (owner of the key, for messages; variable, empty if there is no key).
    """
    if config.models.embedding:
        yield "models.yaml: embedding", config.models.embedding.api_key_env
    for guardrail in config.tasks.guardrails:
        yield f"tasks.yaml: guardrail '{guardrail.name}'", getattr(guardrail.check.options, "api_key_env", "")


class _NoSearch:
    """A search that finds nothing, for a configuration that is only checked; implements `Search`."""

    async def search(self, collection: str, query: str, vector: Vector | None, top_k: int, deadline: float) -> Found:
        return Found((), False)
