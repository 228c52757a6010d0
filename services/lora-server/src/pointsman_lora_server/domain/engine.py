"""The state of the inference engine: its status, and the adapter versions that it holds, loads and unloads."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from pointsman_lora_server.domain.adapter import Alias


class EngineStatus(enum.Enum):
    STARTING = "starting"
    READY = "ready"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class EngineState:
    """A snapshot of the engine's status and of its adapter versions, as published to gateways."""

    status: EngineStatus = EngineStatus.STARTING
    life: int = 0
    """Number of the engine's starts, including the current run. If the lora-server did not start the engine itself, an
    outage of the engine counts as a restart."""
    detail: str = "not started yet"
    """A text that explains the status to people."""
    resident: frozenset[str] = frozenset()
    """Adapter versions that gateways may request: they are loaded, warmed up and not about to be evicted."""
    loading: frozenset[str] = frozenset()
    draining: frozenset[str] = frozenset()
    """Adapter versions that are being unloaded; gateways send no new requests to them."""
    aliases: tuple[Alias, ...] = ()
    ready: Mapping[str, float | None] = field(default_factory=dict, hash=False, compare=False)
    """Version in phase READY, which any engine may load -> the seconds that its training took, None if unknown. All
    snapshots share this mapping, which is changed in place, so it always has the newest content."""
    sequence: int = 1
    """A number that increases by 1 with each change that watchers are notified of."""

    @property
    def restarts(self) -> int:
        return max(0, self.life - 1)

    @property
    def loadable(self) -> frozenset[str]:
        """Returns the adapter versions that are not resident and that the engine can load on demand.

        The set is empty if the engine is not READY.
        """
        return frozenset(self.ready.keys() - self.resident) if self.status is EngineStatus.READY else frozenset()

    def is_loadable(self, version: str) -> bool:
        return self.status is EngineStatus.READY and version in self.ready and version not in self.resident
