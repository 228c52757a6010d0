"""The tables of API providers, shipped as YAML: how each expects its API key, and which fields of requests it gets."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache
from importlib.resources import files
from typing import Any

import yaml
from pointsman_servicekit.errors import InvalidArgument
from pydantic import Field

from pointsman_gateway.config.field_types import ConfigError, Strict, must_be_known

DEFAULT_PROVIDER = "openai"
VLLM_FIELDS, EMBEDDING_FIELDS, MESSAGE_FIELDS = "vllm", "embeddings", "messages"
"""Kinds in request_fields.yaml that no provider names."""
MAX_NAME_CHARACTERS = 100
"""Characters of a field's name that an error message repeats."""


class Provider(Strict):
    auth_header: str = Field(pattern=r"^[a-z-]+: .*\{key\}$", description="NAME: VALUE, with {key} for the API key")
    gen_ai_provider: str = Field(description="OpenTelemetry's gen_ai.provider.name")
    request_fields: str = Field(default="openai", description="a kind in request_fields.yaml")


@lru_cache(maxsize=1)
def providers() -> Mapping[str, Provider]:
    """By name. Read from the package once."""
    return {name: Provider.model_validate(provider) for name, provider in _read_table("providers.yaml").items()}


def _read_table(name: str) -> dict[str, Any]:
    table: dict[str, Any] = yaml.safe_load(files(__package__).joinpath(name).read_text("utf-8"))
    return table


@dataclass(frozen=True, slots=True)
class RejectedField:
    """A field that requests must not have."""

    advice: str
    """What to do instead, or why the field is not accepted."""
    neutral: Any = None
    """The value that is the same as leaving the field out, as is null."""


@dataclass(frozen=True, slots=True)
class RequestFields:
    """The fields that requests to one kind of engine may have, in addition to those that the gateway itself reads."""

    kind: str
    forwarded: frozenset[str]
    ignored: frozenset[str]
    """Accepted, and not sent to the engine."""
    rejected: Mapping[str, RejectedField]
    """Others are rejected too; these have an error message of their own."""

    def with_forwarded(self, names: Iterable[str]) -> "RequestFields":
        return replace(self, forwarded=self.forwarded.union(names))

    def select(self, fields: Mapping[str, Any], path: str = "") -> Mapping[str, Any]:
        """The fields that are sent to the engine. Raises InvalidArgument if one is not accepted.

        `path` precedes the names in error messages.
        """
        if fields.keys() <= self.forwarded:
            return fields
        return {name: value for name, value in fields.items() if self._is_forwarded(name, value, path)}

    def _is_forwarded(self, name: str, value: Any, path: str) -> bool:
        if name in self.forwarded:
            return True
        rejected = self.rejected.get(name)
        if name in self.ignored or value is None or (rejected and value == rejected.neutral):
            return False
        shown = path + name[:MAX_NAME_CHARACTERS]
        if rejected is not None:
            message = f"'{shown}' cannot be set by a request: {rejected.advice}"
        else:
            similar = get_close_matches(name[:MAX_NAME_CHARACTERS], self.forwarded, 1)
            known = f"did you mean '{similar[0]}'?" if similar else f"known: {', '.join(sorted(self.forwarded))}"
            message = f"unknown field '{shown}'; {known}"
        raise InvalidArgument(message, code="unsupported_parameter", param=shown)


@lru_cache(maxsize=8)
def request_fields(kind: str) -> RequestFields:
    """The fields of one kind in request_fields.yaml."""
    table = _read_table("request_fields.yaml")
    names = {use: frozenset(_flatten(lists)) for use, lists in table["kinds"][kind].items()}
    rejected = {name: RejectedField(**field) for name, field in table["rejected"].items()}
    return RequestFields(kind, names["forwarded"], names["ignored"], rejected)


def _flatten(names: Iterable[Any]) -> Iterable[str]:
    for name in names:
        yield from [name] if isinstance(name, str) else name


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
