"""What every part of the configuration has in common: strict models, and the error for what cannot be used."""

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """An immutable model that rejects unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ConfigError(ValueError):
    """The configuration cannot be used; the message names the file, the key, the bad value and the known ones."""


def must_be_known(what: str, name: str, known: Iterable[str]) -> None:
    """Raise ConfigError if `name` is not among `known`; `what` begins the message and says where the name stands."""
    if name not in known:
        raise ConfigError(f"{what} '{name}'; known: {', '.join(sorted(known))}")
