"""The nouns of the lora-server: adapter versions, aliases, what is wanted, and what is true of the engine."""

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pointsman_servicekit.errors import InvalidArgument

HASH_DIGITS = 12
TRAINING_SECONDS = "training_seconds"
"""Among a version's metrics: what its training took."""
_NAME = re.compile(r"[a-z0-9_-]{1,64}")
_HASH = re.compile(rf"[0-9a-f]{{{HASH_DIGITS}}}")


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """An immutable adapter and its manifest. Its name holds its content's hash: the same name, the same weights."""

    name: str
    sha256: str
    base_model: str
    rank: int
    target_modules: tuple[str, ...]
    bytes: int
    created_unix_ms: int
    facts: Mapping[str, str] = field(default_factory=dict)
    base_digest: str = ""
    """Of the base model; empty where its folder names none."""
    chat_template_sha256: str = ""
    training_data_sha256: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Of its evaluation: "heldout_exact" beside "prompt_path_exact", "heldout_loss", ..."""
    parent: str = ""
    author: str = ""

    @property
    def version(self) -> str:
        return f"{self.name}@{self.sha256[:HASH_DIGITS]}"


@dataclass(frozen=True, slots=True)
class CanaryTerms:
    """When a canary is taken back by itself; rates and times are compared with those of the version beside it."""

    min_requests: int = 20
    """Of both, before anything is judged."""
    max_error_excess: float = 0.02
    max_invalid_excess: float = 0.05
    max_latency_ratio: float = 1.5


@dataclass(frozen=True, slots=True)
class Canary:
    version: str
    weight: float
    """The share of users that it answers, above 0 to 1."""
    terms: CanaryTerms = CanaryTerms()


@dataclass(frozen=True, slots=True)
class Alias:
    """A name that can be moved from version to version; `revision` counts the moves, and the changes of its canary."""

    alias: str
    version: str
    revision: int
    canary: Canary | None = None
    previous: str = ""
    """Where it pointed before its last move, and so where a rollback points it to."""

    @property
    def versions(self) -> tuple[str, ...]:
        """All that it may send a request to."""
        return (self.version, self.canary.version) if self.canary else (self.version,)


class Phase(enum.Enum):
    """How a version stands with all engines alike; it is kept in Redis."""

    REGISTERED = "registered"  # in the store, its files checked
    VALIDATING = "validating"  # it is tried apart from the engine
    READY = "ready"  # any engine may load it
    RETIRED = "retired"  # no engine may load it any more
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class PhaseRecord:
    """A version's phase, and why it failed."""

    phase: Phase
    error_code: str = ""
    error: str = ""
    word: str = ""
    """The alias's part after the "@" that is to be moved to it once it is resident; empty once that is done."""
    force: bool = False
    """Whether that alias is moved even where the evaluation says that prompting is as good."""


@dataclass(frozen=True, slots=True)
class Placement:
    """How many engines hold those versions of an adapter that an alias or a canary points to."""

    copies: int | None = None
    """On so many, or on all where there are fewer; None: on every engine; 0: on none before it is asked for there."""

    def __str__(self) -> str:
        return "all" if self.copies is None else str(self.copies) if self.copies else "on-demand"


@dataclass(frozen=True, slots=True)
class FleetState:
    """What each engine holds, of those that are up and were heard of lately."""

    holds: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By engine."""


@dataclass(frozen=True, slots=True)
class DesiredState:
    """What Redis holds, at one moment."""

    versions: Mapping[str, AdapterVersion] = field(default_factory=dict)
    standings: Mapping[str, PhaseRecord] = field(default_factory=dict)
    """Of every one of the versions."""
    aliases: tuple[Alias, ...] = ()
    pins: frozenset[str] = frozenset()
    placements: Mapping[str, Placement] = field(default_factory=dict)
    """By adapter's name; one that is not here is on every engine."""
    coming: Mapping[str, int] = field(default_factory=dict)
    """Versions that an alias is about to be moved to, and until when that is to be believed, in Unix milliseconds."""

    def placement_of(self, version: str) -> Placement:
        return self.placements.get(version.partition("@")[0], Placement())

    @property
    def aimed_at(self) -> frozenset[str]:
        """The versions that an alias or a canary points to."""
        return frozenset(version for alias in self.aliases for version in alias.versions)


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the history."""

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
    """The whole truth at one moment. `life` counts the engine's starts: what one life holds, the next does not."""

    status: EngineStatus = EngineStatus.STARTING
    life: int = 0
    detail: str = "not started yet"
    resident: frozenset[str] = frozenset()
    """Confirmed and warm, and not about to go: what gateways may ask for."""
    loading: frozenset[str] = frozenset()
    draining: frozenset[str] = frozenset()
    loadable: frozenset[str] = frozenset()
    """Not resident, and to be had for the asking."""
    aliases: tuple[Alias, ...] = ()
    training_seconds: Mapping[str, float] = field(default_factory=dict, hash=False)
    """Of the versions that any engine may hold, as far as their training reports tell."""
    sequence: int = 1

    @property
    def restarts(self) -> int:
        return max(0, self.life - 1)


class VersionState(enum.Enum):
    """How a version stands, this engine included."""

    REGISTERED = "registered"
    VALIDATING = "validating"
    READY = "ready"  # this engine does not hold it
    LOADING = "loading"
    WARM = "warm"  # resident, and neither alias nor canary points to it
    SERVING = "serving"  # resident, and one does
    DRAINING = "draining"
    RETIRED = "retired"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class VersionReport:
    """A version and how it stands."""

    version: AdapterVersion
    state: VersionState
    aliases: tuple[str, ...]
    pinned: bool = False
    error_code: str = ""
    error: str = ""


def state_of(version: str, desired: DesiredState, engine: EngineState) -> VersionState:
    """What Redis says of the version, and what this engine makes of it."""
    phase = desired.standings[version].phase
    if version in engine.draining:
        return VersionState.DRAINING
    if phase is not Phase.READY:
        return VersionState(phase.value)
    if version in engine.resident:
        return VersionState.SERVING if version in desired.aimed_at else VersionState.WARM
    return VersionState.LOADING if version in engine.loading else VersionState.READY


def report_of(version: str, desired: DesiredState, engine: EngineState) -> VersionReport:
    standing = desired.standings[version]
    return VersionReport(
        version=desired.versions[version],
        state=state_of(version, desired, engine),
        aliases=tuple(alias.alias for alias in desired.aliases if version in alias.versions),
        pinned=version in desired.pins,
        error_code=standing.error_code,
        error=standing.error,
    )


def check_name(name: str) -> None:
    """Raises InvalidArgument where `name` may not be an adapter's; a good name is safe as a folder's, too."""
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
    """Raises InvalidArgument unless `alias` is "NAME@WORD" with a word that nobody can take for a hash."""
    name, _, word = alias.partition("@")
    if not (_NAME.fullmatch(name) and _NAME.fullmatch(word)) or _HASH.fullmatch(word):
        raise InvalidArgument(
            f"'{alias}' cannot be an alias: NAME@WORD, each 1 to 64 of a-z, 0-9, '-' and '_', and the word not "
            f"{HASH_DIGITS} hexadecimal digits, as in 'triage@prod'",
            code="bad_alias",
            param="alias",
        )
