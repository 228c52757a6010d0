"""Where aliases point, by the newest that any lora-server tells: those of one model read one registry, some later."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pointsman_gateway.domain import Alias

REMEMBERED = 60.0
"""Seconds that the newest telling holds after nobody tells it any more. So long a lora-server that starts again, and
knows nothing yet, moves no alias back; and a registry that was begun anew, with low revisions, is not believed."""

_Key = tuple[str, str]
"""The base model, and the alias."""


@dataclass(frozen=True, slots=True)
class _Word:
    """What the lora-server of one engine told last."""

    model: str
    aliases: Mapping[str, Alias]


class Aliases:
    """One table for all engines and all generations of the configuration: an alias moves for everybody at once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._now: dict[_Key, Alias] = {}
        self._words: dict[str, _Word] = {}
        """By engine."""
        self._untold: dict[_Key, float] = {}
        """Since when nobody tells what `_now` says."""

    def get(self, model: str, alias: str) -> Alias | None:
        return self._now.get((model, alias))

    def of(self, model: str) -> Sequence[Alias]:
        return [alias for (of_model, _), alias in self._now.items() if of_model == model]

    def hear(self, engine: str, model: str, told: Mapping[str, Alias]) -> None:
        """Takes the latest word of the lora-server of `engine`; of equal revisions the last one told holds."""
        before, word = self._words.get(engine), _Word(model, told)
        if word == before:
            self._settle(set())
            return
        self._words[engine] = word
        for name, alias in told.items():
            known = self._now.get((model, name))
            if known is None or alias.revision >= known.revision:
                self._now[model, name] = alias
        self._settle(_keys(before) | _keys(word))

    def forget(self, engine: str) -> None:
        """Its lora-server is followed no more."""
        self._settle(_keys(self._words.pop(engine, None)))

    def _settle(self, touched: set[_Key]) -> None:
        """Lets go of what nobody has told for long enough: then the newest that somebody tells holds, or nothing."""
        for key in touched | self._untold.keys():
            known = self._now.get(key)
            if known is None:
                continue
            newest = max(self._told(key), key=lambda alias: alias.revision, default=None)
            if newest is not None and newest.revision >= known.revision:
                self._untold.pop(key, None)
            elif self._clock() - self._untold.setdefault(key, self._clock()) >= REMEMBERED:
                del self._untold[key]
                if newest is None:
                    del self._now[key]
                else:
                    self._now[key] = newest

    def _told(self, key: _Key) -> list[Alias]:
        model, name = key
        return [word.aliases[name] for word in self._words.values() if word.model == model and name in word.aliases]


def _keys(word: _Word | None) -> set[_Key]:
    return set() if word is None else {(word.model, name) for name in word.aliases}
