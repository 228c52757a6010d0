"""Where aliases point, by the newest that any lora-server tells: those of one model read one registry, some later."""

import math
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from pointsman_gateway.breaker import Breaker
from pointsman_gateway.domain import Alias, CanaryMetrics
from pointsman_gateway.engines.adapter_admin import AdapterDesk

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


NO_WORD = "no word from its lora-server yet"


@dataclass(frozen=True, slots=True)
class Engine:
    """What is known of one engine."""

    name: str
    model: str
    url: str = ""
    ready: bool = False
    resident: frozenset[str] = frozenset()
    loadable: frozenset[str] = frozenset()
    """Versions that it does not hold, and that its lora-server can have it load."""
    aliases: Mapping[str, Alias] = field(default_factory=dict)
    """As its lora-server told them; what holds is the newest that any of them tells."""
    detail: str = NO_WORD
    api_key: str = ""
    sequence: int = 0
    """Of the lora-server's word."""
    training_seconds: Mapping[str, float] = field(default_factory=dict)
    """That the training of each version took, where that is known."""
    group: str = ""
    """As models.yaml calls it where it is one of several; its own name is then that and its number in the group."""
    place: str = ""
    """HOST:PORT of a group's member: what all gateways know it by, since each numbers them by itself."""

    @property
    def heard_of(self) -> bool:
        return self.ready or self.detail != NO_WORD

    def serves(self, model: str, version: str) -> bool:
        """Whether it can answer for the model, or for the adapter's version where one is given."""
        return self.ready and self.model == model and (not version or version in self.resident)

    def knows(self, version: str) -> bool:
        return version in self.resident or version in self.loadable

    def holding(self, version: str) -> "Engine":
        return replace(self, resident=self.resident | {version}, loadable=self.loadable - {version})

    def lacking(self, version: str) -> "Engine":
        return replace(self, resident=self.resident - {version}, loadable=self.loadable | {version})


class LoraServer(Protocol):
    """What stands beside an engine and has it load adapters."""

    def rest_left(self, version: str) -> float:
        """Seconds until it is asked for the version again, which it could not have loaded; 0: it may be asked."""
        ...

    async def facts(self, version: str) -> Mapping[str, str]:
        """What was noted at its making. Raises PointsmanError."""
        ...

    async def ensure(self, version: str, seconds: float) -> None:
        """Returns once the engine holds the version, and its cell says so. Raises Unavailable."""
        ...

    async def report(self, outcomes: Sequence[CanaryMetrics]) -> str:
        """What became of it: "sent", "refused", "lost" (it may have arrived) or "kept" (it has not)."""
        ...


class Cell:
    """The latest word on one engine, and how it does; generations of the configuration that name it share its cell."""

    words = 0
    """That any cell has heard so far: as long as there are no more, nothing that follows from them has changed."""

    __slots__ = ("_rests_until", "breaker", "clock", "desk", "engine", "in_flight", "lora_server", "seed")

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self.engine = engine
        self.lora_server: LoraServer | None = None
        """None where it has none, or is not followed."""
        self.desk: AdapterDesk | None = None
        """As the lora-server is there: what adapters there are, and how they are moved."""
        self.clock = clock
        self.breaker = Breaker(clock)
        self.in_flight = 0
        """Answers that it is busy with, of this gateway."""
        self.seed = zlib.crc32((engine.place or engine.name).encode())
        """By which prompts are spread over engines."""
        self._rests_until = 0.0

    def hear(self, engine: Engine) -> None:
        """Takes the latest word on it."""
        self.engine = engine
        Cell.words += 1

    def lacks(self, version: str, told: Engine) -> None:
        """It has refused to know a version that it held by the word `told`; a newer word stands."""
        if self.engine is told:
            self.hear(told.lacking(version))

    def may_load(self, version: str) -> bool:
        return self.lora_server is not None and not self.lora_server.rest_left(version) and self.may_be_asked

    def rest(self, seconds: float) -> None:
        """It has asked to be left alone for so long."""
        if not self.has_left:
            self._rests_until = self.clock() + seconds

    def leave(self) -> None:
        """Nothing new is sent to it, also by requests that have chosen it and not asked it yet."""
        self._rests_until = math.inf

    @property
    def has_left(self) -> bool:
        """It is its group's no more."""
        return self._rests_until == math.inf

    @property
    def rest_left(self) -> float:
        """Seconds that it has asked for still; infinite where it has left."""
        return max(0.0, self._rests_until - self.clock()) if self._rests_until else 0.0

    @property
    def may_be_asked(self) -> bool:
        if self.breaker.closed and not self._rests_until:
            return True
        return self.breaker.may_enter() and not self.rest_left
