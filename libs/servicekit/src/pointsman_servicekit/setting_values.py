"""Describes values of settings that cannot be used."""

from collections.abc import Iterable, Mapping

_OWN_ERROR = "Value error, "
"""Precedes the message of a validator's ValueError in the errors of pydantic."""


class WrongSetting(ValueError):
    """A setting in the environment has a value that cannot be used; the message names variable, value and remedy."""

    def __init__(self, prefix: str, errors: Iterable[Mapping[str, object]]) -> None:
        """Takes the prefix of the service's variables, and `ValidationError.errors()` of pydantic."""
        super().__init__("; ".join(_describe(prefix, error) for error in errors))


def _describe(prefix: str, error: Mapping[str, object]) -> str:
    message, location = str(error["msg"]).removeprefix(_OWN_ERROR), error["loc"]
    if not location:  # an error of several settings, whose message names them
        return message
    assert isinstance(location, tuple)
    return f"{prefix}{str(location[0]).upper()} is {error['input']!r}: {message}"
