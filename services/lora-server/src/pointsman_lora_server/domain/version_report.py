"""The state of a version as seen from one engine: what Redis wants, combined with what the engine holds."""

import enum
from dataclasses import dataclass

from pointsman_lora_server.domain.adapter import AdapterVersion
from pointsman_lora_server.domain.desired_state import DesiredState, Phase
from pointsman_lora_server.domain.engine import EngineState


class VersionState(enum.Enum):
    """The state of a version as seen from this engine."""

    REGISTERED = "registered"
    VALIDATING = "validating"
    READY = "ready"  # this engine does not hold it
    LOADING = "loading"
    WARM = "warm"  # resident, but neither an alias nor a canary points to it
    SERVING = "serving"  # resident, and an alias or a canary points to it
    DRAINING = "draining"
    RETIRED = "retired"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class VersionReport:
    """A version with its state, as the API reports it."""

    version: AdapterVersion
    state: VersionState
    aliases: tuple[str, ...]
    """The aliases that point to it, as their stable version or as their canary."""
    pinned: bool = False
    error_code: str = ""
    """The code of the error because of which the version FAILED, empty in other states; `error` is its message."""
    error: str = ""


def state_of(version: str, desired: DesiredState, engine: EngineState) -> VersionState:
    """Returns the state of a registered version on this engine; raises KeyError if `desired` does not contain it.

    A version that the engine is unloading is DRAINING, whatever its phase is. Otherwise a phase other than READY is its
    state, and what the engine holds decides only for READY versions.
    """
    phase = desired.phases[version].phase
    if version in engine.draining:
        return VersionState.DRAINING
    if phase is not Phase.READY:
        return VersionState(phase.value)
    if version in engine.resident:
        return VersionState.SERVING if version in desired.alias_targets else VersionState.WARM
    return VersionState.LOADING if version in engine.loading else VersionState.READY


def report_of(version: str, desired: DesiredState, engine: EngineState) -> VersionReport:
    record = desired.phases[version]
    return VersionReport(
        version=desired.versions[version],
        state=state_of(version, desired, engine),
        aliases=desired.aliases_of(version),
        pinned=version in desired.pins,
        error_code=record.error_code,
        error=record.error,
    )
