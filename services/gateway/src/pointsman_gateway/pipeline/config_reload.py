"""Reloads the configuration while the gateway runs: an edit is applied as a whole, or rejected as a whole."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pointsman_gateway import domain
from pointsman_gateway.config.load import ConfigError
from pointsman_gateway.domain.path import Catalog
from pointsman_gateway.domain.request import UNRESTRICTED, Scope
from pointsman_gateway.embeddings.stage import Embeddings
from pointsman_gateway.engines.engines import Engines
from pointsman_gateway.pipeline.pipeline import Stages

log = logging.getLogger(__name__)


class ModelNames(Protocol):
    def names(self) -> Sequence[str]:
        """All values that a request's `model` may have."""
        ...

    def path_of(self, model: str) -> domain.Path | None:
        """The path of a base model or an adapter; None if the name is unknown."""
        ...


@dataclass(frozen=True, slots=True)
class ConfigSnapshot:
    """Everything that follows from one configuration. A request uses the snapshot that was active at its start."""

    stages: Stages
    engines: Engines
    models: ModelNames
    embeddings: Embeddings
    paths: Sequence[domain.Path]
    """In the order of the configuration."""
    catalogue: Catalog

    @property
    def id(self) -> str:
        """The configuration's digest, which clients see as `generation`."""
        return self.stages.revision

    def model_names(self, scope: Scope) -> Sequence[str]:
        """The values that the `model` of a key's requests may have; embedding models have names of their own."""
        names = self.models.names()
        if scope is UNRESTRICTED:
            return names
        paths = scope.visible(self.catalogue).paths
        return [name for name in names if self._is_visible(name, scope, paths)]

    def _is_visible(self, name: str, scope: Scope, paths: Collection[str]) -> bool:
        name = self.stages.resolve_model(name)
        if name.startswith(domain.PATH_PREFIX):
            return name.removeprefix(domain.PATH_PREFIX) in paths
        path = self.models.path_of(name)
        return name == domain.AUTO or (path is not None and scope.tasks is None and scope.allows(path))


@dataclass(frozen=True, slots=True)
class ReloadStatus:
    generation: str
    """The active snapshot's id."""
    loaded_unix: float
    problem: str
    """Why the last edit was rejected; empty if the active snapshot is what the folder contains."""


class ReloadMetrics(Protocol):
    def count_reload(self, outcome: str, generation: str) -> None:
        """`outcome` is "swapped" or "refused"; `generation` is the active snapshot's id."""
        ...


class ConfigReloader:
    """Holds the active snapshot, and replaces it after the configuration's files have changed."""

    def __init__(
        self,
        first: ConfigSnapshot,
        watched: Sequence[Path],
        build: Callable[[], Awaitable[ConfigSnapshot]],
        metrics: ReloadMetrics,
    ) -> None:
        """`build` reads the configuration from `watched`, its folders and files.

        If it raises, the active snapshot stays, and `status` reports the problem.
        """
        self.current = first
        self._watched = watched
        self._build = build
        self._metrics = metrics
        self._loaded_unix = time.time()
        self._problem = ""

    def stages(self) -> Stages:
        return self.current.stages

    @property
    def status(self) -> ReloadStatus:
        return ReloadStatus(self.current.id, self._loaded_unix, self._problem)

    async def watch(self, seconds: float) -> None:
        """Checks the files every `seconds`, until cancelled. An edit is read once two checks see the same files."""
        built = seen = await asyncio.to_thread(_file_states, self._watched)
        while True:
            await asyncio.sleep(seconds)
            before, seen = seen, await asyncio.to_thread(_file_states, self._watched)
            if seen == before != built:
                built = seen
                await self.reload()

    async def reload(self) -> None:
        """Builds a snapshot from the files, and makes it the active one if that succeeds."""
        try:
            snapshot = await self._build()
        except (ConfigError, OSError) as error:
            self._reject(str(error))
        except Exception as error:  # a bug must not end the watch: the active snapshot stays
            log.exception("the configuration cannot be built")
            self._reject(f"{type(error).__name__}: {error}")
        else:
            self._activate(snapshot)

    def _reject(self, problem: str) -> None:
        self._problem = problem
        self._metrics.count_reload("refused", self.current.id)
        log.error("the changed configuration is rejected, %s stays active: %s", self.current.id, problem)

    def _activate(self, snapshot: ConfigSnapshot) -> None:
        """Also replaces a snapshot with the same id: only the engines of the latest snapshot are kept up to date."""
        self._problem = ""
        before, self.current = self.current, snapshot
        if snapshot.id == before.id:
            return
        self._loaded_unix = time.time()
        self._metrics.count_reload("swapped", snapshot.id)
        log.info("configuration %s is active", snapshot.id)


def _file_states(watched: Sequence[Path]) -> tuple[tuple[str, int, int, int], ...]:
    """Name, inode, size and modification time of every file."""
    states = []
    for file in (file for root in watched for file in _files(root)):
        try:
            stat = file.stat()
        except OSError:
            continue  # it was removed during the check; the next check sees that
        states.append((str(file), stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return tuple(states)


def _files(root: Path) -> list[Path]:
    try:
        return sorted([root, *root.rglob("*")])
    except OSError:  # a folder in it was removed
        return [root]
