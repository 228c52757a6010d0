"""The configuration while the gateway runs: an edit becomes the next generation, as a whole or not at all."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pointsman_gateway import domain
from pointsman_gateway.config.load import ConfigError
from pointsman_gateway.domain.path import Catalog
from pointsman_gateway.embeddings.stage import Embeddings
from pointsman_gateway.engines.engines import Engines
from pointsman_gateway.pipeline.pipeline import Line

log = logging.getLogger(__name__)


class Names(Protocol):
    """What a request's `model` may say."""

    def names(self) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True)
class Generation:
    """One configuration at work. Requests that began with it end with it."""

    line: Line
    engines: Engines
    models: Names
    embeddings: Embeddings
    paths: Sequence[domain.Path]
    """Those that the configuration names, in its order."""
    catalogue: Catalog

    @property
    def id(self) -> str:
        return self.line.generation


@dataclass(frozen=True, slots=True)
class Status:
    """How the configuration stands."""

    generation: str
    loaded_unix: float
    problem: str
    """Why what is in the folder now is not what serves; empty where it is."""


class Meter(Protocol):
    """Counts changes of the configuration."""

    def count_reload(self, outcome: str, generation: str) -> None: ...


class Generations:
    """Holds the one that serves, and follows what it was read from."""

    def __init__(
        self, first: Generation, watched: Sequence[Path], build: Callable[[], Awaitable[Generation]], meter: Meter
    ) -> None:
        """`build` reads the folder and makes what is in it; `watched` are the folders and files that it reads.

        It may raise ConfigError or OSError; the generation before then goes on, and the problem is told.
        """
        self.current = first
        self._watched = watched
        self._build = build
        self._meter = meter
        self._loaded_unix = time.time()
        self._problem = ""

    def line(self) -> Line:
        return self.current.line

    @property
    def status(self) -> Status:
        return Status(self.current.id, self._loaded_unix, self._problem)

    async def follow(self, seconds: float) -> None:
        """Looks every `seconds`, until cancelled. What has not come to rest between two looks is not read yet."""
        built = seen = await asyncio.to_thread(_state, self._watched)
        while True:
            await asyncio.sleep(seconds)
            before, seen = seen, await asyncio.to_thread(_state, self._watched)
            if seen == before != built:
                built = seen
                await self.reload()

    async def reload(self) -> None:
        """Makes what is written now the generation that serves, if it can be."""
        try:
            following = await self._build()
        except (ConfigError, OSError) as error:
            self._refuse(str(error))
        except Exception as error:  # whatever it is, the generation that serves must go on
            log.exception("the configuration cannot be built")
            self._refuse(f"{type(error).__name__}: {error}")
        else:
            self._swap(following)

    def _refuse(self, problem: str) -> None:
        self._problem = problem
        self._meter.count_reload("refused", self.current.id)
        log.error("the changed configuration is refused, generation %s goes on: %s", self.current.id, problem)

    def _swap(self, following: Generation) -> None:
        """Also for one that says the same: the engines of the latest that was built alone are kept true."""
        self._problem = ""
        before, self.current = self.current, following
        if following.id == before.id:
            return
        self._loaded_unix = time.time()
        self._meter.count_reload("swapped", following.id)
        log.info("generation %s serves", following.id)


def _state(watched: Sequence[Path]) -> tuple[tuple[str, int, int, int], ...]:
    """Name, inode, size and time of every file."""
    state = []
    for file in (file for root in watched for file in _files(root)):
        try:
            about = file.stat()
        except OSError:
            continue  # it went while we looked; the next look tells
        state.append((str(file), about.st_ino, about.st_size, about.st_mtime_ns))
    return tuple(state)


def _files(root: Path) -> list[Path]:
    try:
        return sorted([root, *root.rglob("*")])
    except OSError:  # a folder of it went
        return [root]
