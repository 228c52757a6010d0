"""What is wrong with a configuration, in words."""

from collections.abc import Iterable


class ConfigError(ValueError):
    """The configuration cannot be used; the message names the file, the key, the bad value and the known ones."""


def must_be_known(what: str, name: str, known: Iterable[str]) -> None:
    """Raises ConfigError where `name` is not among `known`; `what` says who names it."""
    if name not in known:
        raise ConfigError(f"{what} '{name}'; known: {', '.join(sorted(known))}")
