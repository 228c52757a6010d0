"""The table of API providers, shipped as providers.yaml: how each expects its API key."""

import os
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files

import yaml
from pydantic import Field

from pointsman_gateway.config.field_types import ConfigError, Strict, must_be_known

DEFAULT_PROVIDER = "openai"


class Provider(Strict):
    auth_header: str = Field(pattern=r"^[a-z-]+: .*\{key\}$", description="NAME: VALUE, with {key} for the API key")
    gen_ai_provider: str = Field(description="OpenTelemetry's gen_ai.provider.name")


@lru_cache(maxsize=1)
def providers() -> Mapping[str, Provider]:
    """By name. Read from the package once."""
    table = yaml.safe_load(files(__package__).joinpath("providers.yaml").read_text("utf-8"))
    return {name: Provider.model_validate(provider) for name, provider in table.items()}


def check_provider(name: str) -> str:
    """Return the name. Raises ConfigError if it is not in the table."""
    must_be_known("unknown provider", name, providers())
    return name


def auth_header(what: str, provider: str, variable: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return the header line with the API key in the environment variable; empty if `variable` is empty.

    Raises ConfigError if the variable is not set; `what` begins its message.
    """
    if not variable:
        return ""
    key = environment.get(variable, "")
    if not key:
        raise ConfigError(f"models.yaml: {what} needs the environment variable {variable}, which is not set")
    return providers()[provider].auth_header.format(key=key) + "\r\n"
