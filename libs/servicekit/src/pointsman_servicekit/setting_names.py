"""Finds misspelt settings, with which a service would silently use its defaults."""

from collections.abc import Collection, Mapping
from difflib import get_close_matches

MIN_SIMILARITY = 0.6


class UnknownSetting(ValueError):
    """An environment variable begins with a service's prefix, but is not one of its settings.

    The message names the variable, and a similar setting if there is one.
    """


def require_known_settings(
    prefix: str, names: Collection[str], environment: Mapping[str, str], others: Collection[str] = ()
) -> None:
    """Raises UnknownSetting if a variable with the prefix in `environment` is neither a setting nor in `others`.

    `names` are the settings' names without the prefix, in any case. `others` are whole names of further variables.
    `prefix` and `others` are in capitals.
    """
    known = {f"{prefix}{name}".upper() for name in names}
    for variable in sorted(environment):
        name = variable.upper()
        if name.startswith(prefix) and name not in known and name not in others:
            similar = get_close_matches(name, known, 1, MIN_SIMILARITY)
            hint = f"; did you mean {similar[0]}?" if similar else ""
            raise UnknownSetting(f"{variable} is no setting{hint}")
