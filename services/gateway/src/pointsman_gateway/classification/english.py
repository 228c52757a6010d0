"""English word lists, read from english.toml."""

import tomllib
from importlib.resources import files

_LISTS = tomllib.loads(files(__package__).joinpath("english.toml").read_text("utf-8"))


def _words(name: str) -> frozenset[str]:
    return frozenset(_LISTS[name].split())


ENGLISH_ONLY = _words("english_only")
NO_CONTENT = _words("no_content")
THANKS = _words("thanks")
COURTESIES = THANKS | _words("courtesies")
REFERENCES = _words("references")
FOLLOW_UP_OPENINGS: tuple[str, ...] = tuple(_LISTS["follow_up_openings"])
