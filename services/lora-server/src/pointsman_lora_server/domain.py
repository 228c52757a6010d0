"""The lora-server's values: adapter versions, aliases, the desired state from Redis, and the state of the engine."""

import enum
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from pointsman_servicekit.errors import InvalidArgument

HASH_DIGITS = 12
TRAINING_SECONDS = "training_seconds"
"""The key of the training's duration among a version's metrics."""
MAX_RECENT_REVISIONS = 64
"""A reader that is further behind reads the complete state."""
_NAME = re.compile(r"[a-z0-9_-]{1,64}")
_HASH = re.compile(rf"[0-9a-f]{{{HASH_DIGITS}}}")


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """An immutable adapter and its manifest; its name contains the hash of the weights, so it never means others."""

    name: str
    sha256: str
    base_model: str
    rank: int
    target_modules: tuple[str, ...]
    bytes: int
    created_unix_ms: int
    facts: Mapping[str, str] = field(default_factory=dict)
    base_digest: str = ""
    """SHA-256 of the base model's weights, empty if the base model's folder does not state it."""
    chat_template_sha256: str = ""
    training_data_sha256: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Results of its evaluation, such as "heldout_exact", "prompt_path_exact" and "heldout_loss"."""
    parent: str = ""
    author: str = ""

    @property
    def version(self) -> str:
        return f"{self.name}@{self.sha256[:HASH_DIGITS]}"


@dataclass(frozen=True, slots=True)
class CanaryTerms:
    """The differences from the stable version's rates and latencies above which a canary is rolled back."""

    min_requests: int = 20
    """Number of requests that both versions must have before they are compared."""
    max_error_excess: float = 0.02
    max_invalid_excess: float = 0.05
    max_rating_loss: float = 0.1
    max_latency_ratio: float = 1.5


@dataclass(frozen=True, slots=True)
class Canary:
    """A version that serves part of an alias's users before it may replace the alias's stable version."""

    version: str
    weight: float
    """Fraction of the users, above 0 and up to 1."""
    terms: CanaryTerms = CanaryTerms()


@dataclass(frozen=True, slots=True)
class Alias:
    """A name that points to a version and can be moved to another one.

    `revision` is incremented by each move and each change of the canary.
    """

    alias: str
    version: str
    revision: int
    canary: Canary | None = None
    previous: str = ""
    """The version before the last move, to which a rollback returns."""

    @property
    def versions(self) -> tuple[str, ...]:
        """Returns the versions that receive requests sent to the alias."""
        return (self.version, self.canary.version) if self.canary else (self.version,)


class Phase(enum.Enum):
    """The state of a version that is the same for all engines. It is stored in Redis."""

    REGISTERED = "registered"  # stored, its files are checked
    VALIDATING = "validating"  # its smoke test runs
    READY = "ready"  # any engine may load it
    RETIRED = "retired"  # no engine may load it any more
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class PhaseRecord:
    """The phase of a version, the reason if it failed, and the alias that is waiting to be moved to it."""

    phase: Phase
    error_code: str = ""
    error: str = ""
    alias_suffix: str = ""
    """The part after the "@" of the alias to move to this version once an engine holds it; empty when that is done."""
    force: bool = False
    """Whether the alias is moved even if the evaluation shows no gain over prompting."""


@dataclass(frozen=True, slots=True)
class Placement:
    """How many engines hold the versions of an adapter that an alias or a canary points to."""

    copies: int | None = None
    """Number of engines (all of them if there are fewer). None: every engine. 0: none until a request needs one."""

    def __str__(self) -> str:
        return "all" if self.copies is None else str(self.copies) if self.copies else "on-demand"


@dataclass(frozen=True, slots=True)
class FleetState:
    """The engines of all lora-servers that are up and have reported recently, with the versions that each holds."""

    holds: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Engine name -> the versions that it holds."""


@dataclass(frozen=True, slots=True)
class ChangeLog:
    """The names of the aliases and versions that each of the latest revisions of a state has changed."""

    revision: int = 0
    recent: tuple[frozenset[str], ...] = ()
    """The names that the latest revisions changed, the newest last."""

    def append(self, names: frozenset[str] | None) -> "ChangeLog":
        """Returns the log with one more revision, which changed `names`; None if it may have changed everything."""
        recent = () if names is None else (*self.recent, names)[-MAX_RECENT_REVISIONS:]
        return ChangeLog(self.revision + 1, recent)

    def since(self, revision: int) -> frozenset[str] | None:
        """Returns the names that differ between `revision` and the current one; None if everything may differ."""
        missing = self.revision - revision
        if not 0 <= missing <= len(self.recent):
            return None
        return frozenset().union(*self.recent[len(self.recent) - missing :])


@dataclass(frozen=True, slots=True)
class DesiredState:
    """A consistent snapshot of the versions, aliases, pins and placements that Redis holds."""

    versions: Mapping[str, AdapterVersion] = field(default_factory=dict)
    phases: Mapping[str, PhaseRecord] = field(default_factory=dict)
    """One for each of the versions."""
    aliases: tuple[Alias, ...] = ()
    pins: frozenset[str] = frozenset()
    placements: Mapping[str, Placement] = field(default_factory=dict)
    """Adapter name -> its placement; an adapter that is not listed is on every engine."""
    upcoming: Mapping[str, int] = field(default_factory=dict)
    """Versions that an alias is about to be moved to -> the Unix time in milliseconds at which that lapses."""
    log: ChangeLog = field(default=ChangeLog(), compare=False)
    """Of the names of versions, aliases and adapters."""
    _alias_names: dict[str, tuple[str, ...]] = field(default_factory=dict, init=False, compare=False, repr=False)

    def changed_since(self, before: "DesiredState") -> frozenset[str] | None:
        """Returns the versions and aliases that differ from an earlier state; None if everything may differ."""
        if self is before:
            return frozenset()
        return None if self.log.revision == before.log.revision else self.log.since(before.log.revision)

    def placement_of(self, version: str) -> Placement:
        return self.placements.get(version.partition("@")[0], Placement())

    @property
    def alias_targets(self) -> Set[str]:
        """Returns the versions that an alias points to, as its stable version or as its canary."""
        if self.aliases and not self._alias_names:
            names: dict[str, tuple[str, ...]] = {}
            for alias in self.aliases:
                for version in alias.versions:
                    names[version] = (*names.get(version, ()), alias.alias)
            self._alias_names.update(names)  # in one step, since metrics are computed in another thread
        return self._alias_names.keys()

    def aliases_of(self, version: str) -> tuple[str, ...]:
        """Returns the names of the aliases that point to the version, directly or by their canary."""
        return self._alias_names[version] if version in self.alias_targets else ()


@dataclass(frozen=True, slots=True)
class Change:
    """One entry in the history of versions and aliases: who changed what, when and why."""

    id: str
    at_unix_ms: int
    kind: str
    subject: str
    before: str
    after: str
    author: str
    reason: str


class EngineStatus(enum.Enum):
    STARTING = "starting"
    READY = "ready"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class EngineState:
    """A snapshot of the engine's status and of the versions that it holds, as gateways see it.

    `life` counts the engine's starts. What the engine held before a restart is gone after it.
    """

    status: EngineStatus = EngineStatus.STARTING
    life: int = 0
    detail: str = "not started yet"
    resident: frozenset[str] = frozenset()
    """Versions that gateways may request: loaded, warmed up and not about to be evicted."""
    loading: frozenset[str] = frozenset()
    draining: frozenset[str] = frozenset()
    aliases: tuple[Alias, ...] = ()
    ready: Mapping[str, float | None] = field(default_factory=dict, hash=False, compare=False)
    """Versions that any engine may load, with the seconds that their training took, if its report states it. It is not
    copied, so its content is always that of the newest state."""
    sequence: int = 1

    @property
    def restarts(self) -> int:
        return max(0, self.life - 1)

    @property
    def loadable(self) -> frozenset[str]:
        """Returns the versions that are not resident and can be loaded on demand."""
        return frozenset(self.ready.keys() - self.resident) if self.status is EngineStatus.READY else frozenset()

    def is_loadable(self, version: str) -> bool:
        return self.status is EngineStatus.READY and version in self.ready and version not in self.resident


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
    pinned: bool = False
    error_code: str = ""
    error: str = ""


def state_of(version: str, desired: DesiredState, engine: EngineState) -> VersionState:
    """Combines the phase in Redis with what this engine holds."""
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


def is_ready(version: str, desired: DesiredState) -> bool:
    """Returns whether the version is in phase READY, so that any engine may load it."""
    record = desired.phases.get(version)
    return record is not None and record.phase is Phase.READY


def check_name(name: str) -> None:
    """Raises InvalidArgument unless `name` is a valid adapter name. A valid name is also safe as a folder name."""
    if not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"'{name}' cannot be an adapter's name: 1 to 64 of a-z, 0-9, '-' and '_'", code="bad_name", param="name"
        )


def check_version(version: str) -> None:
    """Raises InvalidArgument unless `version` is "NAME@HASH"."""
    if not is_version(version):
        raise InvalidArgument(
            f"'{version}' is no adapter version: NAME@HASH with {HASH_DIGITS} hexadecimal digits, as in "
            "'triage@3f9a1c0b77de'",
            code="bad_version",
            param="version",
        )


def is_version(version: str) -> bool:
    name, _, digits = version.partition("@")
    return bool(_NAME.fullmatch(name) and _HASH.fullmatch(digits))


def check_alias(alias: str) -> None:
    """Raises InvalidArgument unless `alias` is "NAME@SUFFIX" with a suffix that cannot be mistaken for a hash."""
    name, _, suffix = alias.partition("@")
    if not (_NAME.fullmatch(name) and _NAME.fullmatch(suffix)) or _HASH.fullmatch(suffix):
        raise InvalidArgument(
            f"'{alias}' cannot be an alias: NAME@SUFFIX, each 1 to 64 of a-z, 0-9, '-' and '_', and the suffix not "
            f"{HASH_DIGITS} hexadecimal digits, as in 'triage@prod'",
            code="bad_alias",
            param="alias",
        )


def adapter_name(version_or_alias: str) -> str:
    """Returns the adapter's name: the part of a version or an alias before the "@"."""
    return version_or_alias.partition("@")[0]
