"""Where in decoded JSON something stands."""

from collections.abc import Callable, Iterator
from typing import Any


def places(data: Any, is_wrong: Callable[[Any], bool], at: str = "") -> Iterator[str]:
    """Of names, texts and numbers that are wrong, as "messages[0].content"; of a name, where its object stands."""
    if isinstance(data, list):
        for number, one in enumerate(data):
            yield from places(one, is_wrong, f"{at}[{number}]")
    elif isinstance(data, dict):
        for name, one in data.items():
            if is_wrong(name):
                yield at
            else:
                yield from places(one, is_wrong, f"{at}.{name}" if at else name)
    elif is_wrong(data):
        yield at
