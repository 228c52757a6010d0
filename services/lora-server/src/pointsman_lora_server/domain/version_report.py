"""The state of an adapter version on one engine: the version's phase in Redis, combined with whether this engine holds
it.
"""

import enum
from dataclasses import dataclass

from pointsman_lora_server.domain.adapter import AdapterVersion
from pointsman_lora_server.domain.desired_state import DesiredState, Phase
from pointsman_lora_server.domain.engine import EngineState


class VersionState(enum.Enum):
    """The state of an adapter version on this lora-server's engine."""

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
    """An adapter version with its state, as the API reports it."""

    version: AdapterVersion
    state: VersionState
    aliases: tuple[str, ...]
    """The aliases to which the version belongs, as their stable version or as their canary."""
    pinned: bool = False
    error_code: str = ""
    """The code of the error that made the version FAILED; empty in other states. `error` is the message of this
    error."""
    error: str = ""


def state_of(version: str, desired: DesiredState, engine: EngineState) -> VersionState:
    """Returns the state of a registered version on this engine; raises KeyError if `desired` does not contain the
    version.

    If the engine is unloading the version, its state is DRAINING. Otherwise the state is the version's phase, unless
    the phase is READY; then the state depends on whether the engine holds or loads the version.
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
