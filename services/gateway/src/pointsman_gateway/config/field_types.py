"""What all configuration schemas share: the base class `Strict`, types of fields with their limits, and extensions."""

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from functools import lru_cache
from typing import Annotated, Any, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    TypeAdapter,
    create_model,
    model_serializer,
    model_validator,
)
from pydantic_core import CoreSchema

from pointsman_gateway.extensions import GUARDRAILS, POLICIES, STRATEGIES, VALIDATORS, Registry, Resources

MIN_SIMILARITY = 0.7
"""The least similarity (`difflib`'s ratio) of a known name that an error message suggests for an unknown one."""

MAX_TEMPERATURE = 2.0
MAX_STOP_SEQUENCES = 4
"""The maximum number of stop sequences in OpenAI's API."""
MAX_MESSAGES_STOP_SEQUENCES = 64
"""The maximum number of stop sequences in the Messages API. An engine may have a lower limit."""
MAX_GUARDRAIL_SECONDS = 30.0
"""The largest value of a guardrail's `timeout_seconds`."""
SMALLEST_TOP_P = 1e-9
"""The smallest `top_p` that the gRPC API accepts."""

NAME_PATTERN = r"[a-z0-9_-]{1,64}"
"""The form of the names of paths, tasks and adapters. The lora-server, the retriever and the command have copies."""

Name = Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")]
MaxTokens = Annotated[int, Field(ge=1, lt=2**63)]
Temperature = Annotated[float, Field(ge=0, le=MAX_TEMPERATURE)]
TopP = Annotated[float, Field(gt=0, le=1)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
TopLogprobs = Annotated[int, Field(ge=0, le=20)]
Share = Annotated[float, Field(ge=0, le=1)]
Dollars = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
"""A price in dollars. With a higher limit, sums in picodollars would exceed Redis's integers within a few requests."""


class Strict(BaseModel):
    """A pydantic model that rejects unknown keys, and whose fields cannot be assigned."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ConfigError(ValueError):
    """Raised if the configuration cannot be used; the message says what is wrong, and what would be right."""


def must_be_known(what: str, name: str, known: Collection[str]) -> None:
    """Raises ConfigError if `name` is not in `known`.

    The message begins with `what`, for example "unknown path", suggests a similar known name if there is one, and lists
    all known names.
    """
    if name not in known:
        similar = get_close_matches(name, known, 1, MIN_SIMILARITY)
        hint = f"did you mean '{similar[0]}'? " if similar else ""
        raise ConfigError(f"{what} '{name}'; {hint}known: {', '.join(sorted(known)) or 'none'}")


def valid_options(name: str, implementation: Any, options: Any) -> Any:
    """Returns the options of an extension, converted to the type `Options` of the extension's class, `implementation`.

    If the class has no `Options`, returns them unchanged. Raises pydantic's ValidationError if they do not have this
    type; `name`, the extension's name, is then in the error's location.
    """
    entry = _entry_model(name, options_type(implementation))
    return entry.model_validate({name: options}).options


def options_type(implementation: Any) -> Any:
    return getattr(implementation, "Options", Any)


@lru_cache(maxsize=256)
def _entry_model(name: str, options: Any) -> Any:
    """Returns a pydantic model with `name` as its only key, so that errors have the name in their location.

    It is cached, because a model class takes 11 kB and 0.2 ms, and a configuration has many entries of the same name.
    """
    return create_model("Entry", __base__=Strict, options=(options, Field(alias=name)))


class ExtensionConfig(BaseModel):
    """The name and the options of an extension (such as a policy or a validator) in the configuration.

    In a file it is written {NAME: OPTIONS}. The options are validated by the type `Options` of the extension's class.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    registry: ClassVar[Registry]

    name: str
    options: Any

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, entry: Any) -> Any:
        if not (isinstance(entry, Mapping) and len(entry) == 1 and isinstance(next(iter(entry)), str)):
            known = ", ".join(cls.registry.builtins)
            raise ValueError(f"an entry names one {cls.registry.kind}, as {{NAME: OPTIONS}}; known: {known}")
        ((name, options),) = entry.items()
        return {"name": name, "options": valid_options(name, cls.registry.find(name), options)}

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Returns the JSON Schema: an object with one key, the extension's name, and its options as the value."""
        entries = []
        for name in cls.registry.builtins:
            options = handler(TypeAdapter(options_type(cls.registry.find(name))).core_schema)
            entries.append({"properties": {name: options}, "required": [name], "additionalProperties": False})
        own = {"propertyNames": {"pattern": "[:.]"}, "minProperties": 1, "maxProperties": 1}
        return {"type": "object", "oneOf": [*entries, own]}

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        return {self.name: self.options}

    @property
    def implementation(self) -> Any:
        """Returns the extension's class."""
        return self.registry.find(self.name)

    def build(self, *context: Any) -> Any:
        """Constructs the extension that the entry names, from its options and `context`, the other constructor
        arguments.

        Raises ValueError if the options cannot be used.
        """
        return self.implementation(self.options, *context)


class PolicyConfig(ExtensionConfig):
    registry = POLICIES

    @property
    def paths(self) -> tuple[str, ...]:
        """Returns the names of all paths that the policy may choose."""
        return tuple(self.build().paths)


class StrategyConfig(ExtensionConfig):
    registry = STRATEGIES

    @property
    def resources(self) -> Resources:
        """Returns the prompt files, examples and collections that the strategy's options refer to."""
        return self.implementation.resources(self.options)  # type: ignore[no-any-return]  # the class is found by name


class ValidatorConfig(ExtensionConfig):
    registry = VALIDATORS


class GuardrailCheck(ExtensionConfig):
    registry = GUARDRAILS
