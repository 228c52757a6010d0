"""Where in decoded JSON a wrong value stands."""

from collections.abc import Callable, Iterable
from typing import Any

MAX_NAME = 100
"""Characters of a field's name that an error message repeats."""


def first_place(data: Any, is_wrong: Callable[[Any], bool], within: str = "") -> str | None:
    """The place of the first wrong name, string or number, as in "messages[0].content", or None if all are right.

    Of a wrong name it is the place of its object. `within` is the place of `data` itself. Takes time linear in the
    size of `data`: the text is made only once the place has been found.
    """
    steps = _steps_to(data, is_wrong)
    if steps is None:
        return None
    place = within
    for step in reversed(steps):
        place += f"[{step}]" if isinstance(step, int) else f"{'.' if place else ''}{step[:MAX_NAME]}"
    return place


def _steps_to(data: Any, is_wrong: Callable[[Any], bool]) -> list[int | str] | None:
    """The names and indexes that lead to the first wrong value, the innermost first."""
    members: Iterable[tuple[int | str, Any]]
    if isinstance(data, dict):
        if any(map(is_wrong, data)):
            return []
        members = data.items()
    elif isinstance(data, list):
        members = enumerate(data)
    else:
        return [] if is_wrong(data) else None
    for step, value in members:
        if isinstance(value, (list, dict)):
            steps = _steps_to(value, is_wrong)
            if steps is not None:
                return [*steps, step]
        elif is_wrong(value):
            return [step]
    return None
