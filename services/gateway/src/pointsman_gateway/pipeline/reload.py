"""Reloads the configuration while the gateway runs: an edit is applied completely, or not at all."""

import asyncio
import gc
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.pipeline.pipeline import ConfigSnapshot, Stages

log = logging.getLogger(__name__)

MAX_SHOWN_BYTES = 64 * 1024
"""Maximum size of a configuration file whose text is stored in the history of the configuration. For a larger file, a
text with its size is stored instead.
"""
_SHOWN_SUFFIXES = (".yaml", ".yml", ".txt", ".j2", ".md")
"""The files in the history of the configuration. Others are examples, which may be large."""


@dataclass(frozen=True, slots=True)
class ReloadStatus:
    revision: str
    """The active configuration's revision."""
    loaded_unix: float
    """When the active configuration was loaded, in Unix seconds."""
    problem: str
    """Why the files that are in the configuration's folder now were rejected; empty if the active configuration was
    built from them.
    """


@dataclass(frozen=True, slots=True)
class ConfigVersion:
    """The files of the configuration as they were at one time, and whether they were accepted or rejected."""

    revision: str
    """The configuration's revision; empty if the files were rejected."""
    unix: float
    """When the files were loaded or rejected, in Unix seconds."""
    problem: str = ""
    """Why the files were rejected; empty if they were not."""
    files: Mapping[str, str] = field(default_factory=dict)
    """The text of each configuration file: path in the configuration's folder -> text as written, with references to
    environment variables not replaced.

    It has only files of the types in `_SHOWN_SUFFIXES`. For a file longer than `MAX_SHOWN_BYTES`, the text only states
    the size.
    """


@dataclass(frozen=True, slots=True)
class ConfigHistory:
    running: ConfigVersion
    """The active version, which is the newest valid one."""
    previous: ConfigVersion | None = None
    """The valid version before the active one; None if there was none."""
    rejected: ConfigVersion | None = None
    """The version of the files that are in the configuration's folder now, if they were rejected; None if they are
    active.
    """


class ReloadMetrics(Protocol):
    def count_reload(self, outcome: str, revision: str) -> None:
        """Counts a reload of the configuration.

        `outcome` is "swapped" if the new configuration is active, or "refused" if it is invalid. `revision` is the
        revision of the configuration that is active after the reload.
        """
        ...


class ConfigReloader:
    """Holds the objects built from the active configuration, and replaces them when its files change."""

    def __init__(
        self,
        first: ConfigSnapshot,
        watched: Sequence[Path],
        build: Callable[[], Awaitable[ConfigSnapshot]],
        metrics: ReloadMetrics,
    ) -> None:
        """Takes `first`, the objects of the configuration at the start, and `build`, which builds those of the present
        files.

        `watched` are the files and folders to watch, beginning with the configuration's folder or a file in it.
        """
        self.current = first
        self._watched = watched
        self._build = build
        self._metrics = metrics
        self.history = ConfigHistory(ConfigVersion(first.revision, time.time(), files=_texts(watched)))

    def stages(self) -> Stages:
        return self.current.stages

    @property
    def status(self) -> ReloadStatus:
        running, rejected = self.history.running, self.history.rejected
        return ReloadStatus(running.revision, running.unix, rejected.problem if rejected else "")

    def running_files(self) -> tuple[str, Mapping[str, str]]:
        """Returns the active configuration's revision, and its files: path in the configuration's folder -> text.

        For a file that is too large, the text only states its size.
        """
        return self.history.running.revision, self.history.running.files

    async def watch(self, seconds: float) -> None:
        """Checks every `seconds` whether the configuration's files have changed, and calls `reload` if so; never
        returns.

        To not read a half-written edit, it waits until two checks in a row see the same names, inodes, sizes and times.
        """
        built = seen = await asyncio.to_thread(_file_states, self._watched)
        while True:
            await asyncio.sleep(seconds)
            before, seen = seen, await asyncio.to_thread(_file_states, self._watched)
            if seen == before != built:
                built = seen
                await self.reload()

    async def reload(self) -> None:
        """Builds all objects from the configuration's present files, and makes them active.

        If an object cannot be built, the old ones stay active, and the problem is logged and recorded in `history` and
        `status`; nothing is raised. A garbage collection then frees objects that no request uses any more, since they
        contain reference cycles.
        """
        files = await asyncio.to_thread(_texts, self._watched)
        try:
            snapshot = await self._build()
        except (ConfigError, OSError) as error:
            self._reject(str(error), files)
        except Exception as error:  # a bug must not end the watch: the active snapshot stays
            log.exception("the configuration cannot be built")
            self._reject(f"{type(error).__name__}: {error}", files)
        else:
            self._activate(snapshot, files)
            del snapshot
        gc.collect()

    def _reject(self, problem: str, files: Mapping[str, str]) -> None:
        self.history = replace(self.history, rejected=ConfigVersion("", time.time(), problem, files))
        self._metrics.count_reload("refused", self.current.revision)
        log.error("the changed configuration is rejected, %s stays active: %s", self.current.revision, problem)

    def _activate(self, snapshot: ConfigSnapshot, files: Mapping[str, str]) -> None:
        """Makes the objects of a new configuration the active ones, and records the new version.

        If its revision is that of the active one, it becomes active too, since only the latest objects' engines are
        watched, but is not counted or recorded as a new version.
        """
        before, self.current = self.history.running, snapshot
        if snapshot.revision == before.revision:
            self.history = replace(self.history, running=replace(before, files=files), rejected=None)
            return
        self.history = ConfigHistory(ConfigVersion(snapshot.revision, time.time(), files=files), previous=before)
        self._metrics.count_reload("swapped", snapshot.revision)
        log.info("configuration %s is active", snapshot.revision)


def _texts(watched: Sequence[Path]) -> dict[str, str]:
    """Returns the configuration's files: path in the configuration's folder -> text, or the size of a large file."""
    folder = watched[0] if watched[0].is_dir() else watched[0].parent
    texts = {}
    for root in watched:
        for file in _files(root):
            if file.suffix not in _SHOWN_SUFFIXES:
                continue
            try:
                size = file.stat().st_size
                name = os.path.relpath(file, folder)
                long = f"({size:,} bytes)"
                texts[name] = long if size > MAX_SHOWN_BYTES else file.read_text("utf-8", errors="replace")
            except OSError:
                continue  # it was removed meanwhile
    return texts


def _file_states(watched: Sequence[Path]) -> tuple[tuple[str, int, int, int], ...]:
    """Returns (path, inode, size, modification time in nanoseconds) of every file and folder below `watched`."""
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
