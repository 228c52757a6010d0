"""Finds misspelt settings. A service would otherwise start with the default in place of the value that was meant."""

from collections.abc import Collection, Mapping
from difflib import get_close_matches

MIN_SIMILARITY = 0.6


class UnknownSetting(ValueError):
    """The environment has a variable with a service's prefix that is none of its settings; the message names both."""


def require_known_settings(
    prefix: str, names: Collection[str], environment: Mapping[str, str], others: Collection[str] = ()
) -> None:
    """Raises UnknownSetting for the first variable with the prefix that is neither a setting nor among `others`.

    `names` are settings without the prefix, `others` whole names of variables in capitals.
    """
    known = {f"{prefix}{name}".upper() for name in names}
    for variable in sorted(environment):
        name = variable.upper()
        if name.startswith(prefix) and name not in known and name not in others:
            similar = get_close_matches(name, known, 1, MIN_SIMILARITY)
            hint = f"; did you mean {similar[0]}?" if similar else ""
            raise UnknownSetting(f"{variable} is no setting{hint}")
