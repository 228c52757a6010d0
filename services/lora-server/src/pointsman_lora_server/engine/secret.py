"""What opens the guard's routes: known to this process and to one life of the engine."""

import secrets

HEADER = "x-pointsman-secret"
VARIABLE = "POINTSMAN_ENGINE_SECRET"
"""Where the engine finds it: in its environment, which only its own user can read, unlike its arguments."""


class GuardSecret:
    """Never printed: neither `str` nor `repr` tells it."""

    def __init__(self) -> None:
        self._value = secrets.token_hex(32)

    def __call__(self) -> str:
        """That of the life now."""
        return self._value

    def renew(self) -> str:
        """For the next life."""
        self._value = secrets.token_hex(32)
        return self._value
