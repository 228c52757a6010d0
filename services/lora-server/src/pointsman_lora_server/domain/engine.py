"""The state of the engine: its status, and the versions that it holds, loads and unloads."""

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
    """A snapshot of the engine's status and of the versions that it holds, as gateways see it."""

    status: EngineStatus = EngineStatus.STARTING
    life: int = 0
    """How often the engine was started, the present run included. For an engine that is not started here, an outage
    counts like a restart."""
    detail: str = "not started yet"
    """A text for people that explains the status."""
    resident: frozenset[str] = frozenset()
    """Versions that gateways may request: loaded, warmed up and not about to be evicted."""
    loading: frozenset[str] = frozenset()
    draining: frozenset[str] = frozenset()
    """Versions that are being unloaded; gateways send no new requests for them."""
    aliases: tuple[Alias, ...] = ()
    ready: Mapping[str, float | None] = field(default_factory=dict, hash=False, compare=False)
    """Versions that any engine may load -> the seconds that their training took, None if unknown. All snapshots share
    this mapping, which is changed in place, so it always has the newest content."""
    sequence: int = 1
    """Increased by 1 with each change that watchers are notified of."""

    @property
    def restarts(self) -> int:
        return max(0, self.life - 1)

    @property
    def loadable(self) -> frozenset[str]:
        """Returns the versions that are not resident and can be loaded on demand.

        There are none if the engine is not READY.
        """
        return frozenset(self.ready.keys() - self.resident) if self.status is EngineStatus.READY else frozenset()

    def is_loadable(self, version: str) -> bool:
        return self.status is EngineStatus.READY and version in self.ready and version not in self.resident
