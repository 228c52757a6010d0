"""Entries {NAME: OPTIONS} of the configuration that name a policy, a strategy or a validator."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, create_model, model_serializer, model_validator

from pointsman_gateway.config.strict import Strict
from pointsman_gateway.extensions import POLICIES, STRATEGIES, VALIDATORS, Registry, Resources


class ExtensionConfig(BaseModel):
    """An extension's name with its options, validated by the type that its class declares."""

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
        # A model of the one key, so that pydantic's errors have the name in their location.
        shape = create_model("Entry", __base__=Strict, options=(cls.registry.find(name).Options, Field(alias=name)))
        return {"name": name, "options": shape.model_validate({name: options}).options}  # type: ignore[attr-defined]

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        return {self.name: self.options}

    @property
    def implementation(self) -> Any:
        """The extension's class."""
        return self.registry.find(self.name)

    def build(self, *context: Any) -> Any:
        """Construct the extension. Raises ValueError if its options cannot be used."""
        return self.implementation(self.options, *context)


class PolicyConfig(ExtensionConfig):
    registry = POLICIES

    @property
    def paths(self) -> tuple[str, ...]:
        """Every path that the policy may choose."""
        return tuple(self.build().paths)


class StrategyConfig(ExtensionConfig):
    registry = STRATEGIES

    @property
    def resources(self) -> Resources:
        """What the options refer to."""
        return self.implementation.resources(self.options)  # type: ignore[no-any-return]  # the class is found by name


class ValidatorConfig(ExtensionConfig):
    registry = VALIDATORS
