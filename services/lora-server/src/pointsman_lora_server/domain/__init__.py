"""The value objects of the lora-server: adapter versions, aliases, the desired state from Redis, and the state of the
engine.
"""

from pointsman_lora_server.domain.adapter import TRAINING_SECONDS, AdapterVersion, Alias, Canary, CanaryTerms
from pointsman_lora_server.domain.demand import EngineReport, StoredPlan, TokenRate
from pointsman_lora_server.domain.desired_state import (
    ON_EVERY_ENGINE,
    Change,
    ChangeLog,
    DesiredState,
    FleetState,
    Phase,
    PhaseRecord,
    Placement,
    is_ready,
)
from pointsman_lora_server.domain.engine import EngineState, EngineStatus
from pointsman_lora_server.domain.names import adapter_name, check_alias, check_name, check_version, is_version
from pointsman_lora_server.domain.version_report import VersionReport, VersionState, report_of, state_of

__all__ = [
    "ON_EVERY_ENGINE",
    "TRAINING_SECONDS",
    "AdapterVersion",
    "Alias",
    "Canary",
    "CanaryTerms",
    "Change",
    "ChangeLog",
    "DesiredState",
    "EngineReport",
    "EngineState",
    "EngineStatus",
    "FleetState",
    "Phase",
    "PhaseRecord",
    "Placement",
    "StoredPlan",
    "TokenRate",
    "VersionReport",
    "VersionState",
    "adapter_name",
    "check_alias",
    "check_name",
    "check_version",
    "is_ready",
    "is_version",
    "report_of",
    "state_of",
]
