"""The steps of one load: into the engine, its first answers, and whether the engine is still well."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from pointsman_servicekit.errors import InvalidArgument

from pointsman_lora_server.domain import AdapterVersion
from pointsman_lora_server.engine.probe import Poisoned


class LoadEngine(Protocol):
    """`VllmApi` says what it raises."""

    async def load(self, version: str, folder: Path) -> None: ...


class Warmer(Protocol):
    async def warm(self, version: AdapterVersion) -> None:
        """A real answer. Raises InvalidArgument."""

    async def agree(self, version: str) -> None:
        """Compares with PEFT's answers, where those are at hand. Raises InvalidArgument."""


class Probe(Protocol):
    async def check(self) -> None:
        """Raises Poisoned where the base model does not answer as it did."""


class LoadSequence:
    def __init__(self, engine: LoadEngine, warmer: Warmer, probe: Probe, restart_engine: Callable[[str], None]) -> None:
        self._engine = engine
        self._warmer = warmer
        self._probe = probe
        self._restart_engine = restart_engine
        self._proven: set[str] = set()  # loaded once by us, and the engine was well afterwards: content never changes

    async def load(self, version: AdapterVersion, folder: Path) -> None:
        """Raises InvalidArgument where the version must not serve, Unavailable where the engine has gone."""
        name = version.version
        try:
            await self._engine.load(name, folder)
            await self._warmer.warm(version)
        except InvalidArgument:
            await self._look_after_engine(name)
            raise
        if name not in self._proven:
            if not await self._look_after_engine(name):
                raise InvalidArgument(
                    f"after {name} was loaded the base model does not answer as it did before: such weights poison the "
                    "engine, which is started again without it",
                    code="poisons_engine",
                )
            self._proven.add(name)

    async def agree(self, version: str) -> None:
        """Raises InvalidArgument where it answers otherwise than in PEFT, NotFound where it is evicted meanwhile."""
        await self._warmer.agree(version)

    async def _look_after_engine(self, name: str) -> bool:
        """Whether it is well; where not, it starts anew."""
        try:
            await self._probe.check()
        except Poisoned as error:
            self._restart_engine(f"poisoned, after {name} was loaded: {error.message}")
            return False
        return True
