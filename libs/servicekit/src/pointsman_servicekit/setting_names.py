"""Finds misspelt settings, with which a service would silently use its defaults."""

from collections.abc import Collection, Mapping
from difflib import get_close_matches

MIN_SIMILARITY = 0.6


class UnknownSetting(ValueError):
    """An environment variable has a service's prefix and is none of its settings.

    The message names the variable, and a similar setting if there is one.
    """


def require_known_settings(
    prefix: str, names: Collection[str], environment: Mapping[str, str], others: Collection[str] = ()
) -> None:
    """Raises UnknownSetting if a variable with the prefix in `environment` is neither a setting nor in `others`.

    `names` are the settings' names without the prefix. `prefix` and `others`, whole names of further variables, are in
    capitals; the case of the other names is ignored.
    """
    known = {f"{prefix}{name}".upper() for name in names}
    for variable in sorted(environment):
        name = variable.upper()
        if name.startswith(prefix) and name not in known and name not in others:
            similar = get_close_matches(name, known, 1, MIN_SIMILARITY)
            hint = f"; did you mean {similar[0]}?" if similar else ""
            raise UnknownSetting(f"{variable} is no setting{hint}")
