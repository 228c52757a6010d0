"""The desired state that Redis stores for all engines of one base model (adapter versions, aliases, placements), and
the log of its changes.
"""

import enum
from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from pointsman_lora_server.domain.adapter import AdapterVersion, Alias

MAX_RECENT_REVISIONS = 64
"""Number of revisions whose changes a `ChangeLog` keeps. A reader that has missed more revisions must read the whole
state again."""


class Phase(enum.Enum):
    """The stage of an adapter version's life, from its registration to its retirement.

    It is stored in Redis and is the same for all engines. It does not say whether an engine has loaded the version.
    """

    REGISTERED = "registered"  # stored, its files are checked
    VALIDATING = "validating"  # its smoke test runs
    READY = "ready"  # any engine may load it
    RETIRED = "retired"  # no engine may load it any more
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class PhaseRecord:
    """The phase of an adapter version, the error if it failed, and the alias that is to be moved to the version."""

    phase: Phase
    error_code: str = ""
    error: str = ""
    alias_suffix: str = ""
    """The part after the "@" of the alias that is moved to this version once an engine holds it; empty if no move was
    requested."""
    force: bool = False
    """Whether a protected alias is moved even if the version did not score better than prompting the base model."""


@dataclass(frozen=True, slots=True)
class Placement:
    """How many engines keep an adapter's versions loaded.

    It only applies to versions to which an alias points, as its stable version or as its canary.
    """

    copies: int | None = None
    """Number of engines that hold each version, or all engines if there are fewer. With 0, an engine loads a version
    when a request needs it. None means all engines."""
    by_demand: bool = False
    """Whether the number of engines depends on how much each version is used; `copies` is None then."""

    @property
    def is_counted(self) -> bool:
        """Returns whether the versions are placed on a number of engines, fixed or by demand; False if they are on all
        engines, or only loaded when requests need them.
        """
        return self.by_demand or bool(self.copies)

    def __str__(self) -> str:
        if self.by_demand:
            return "auto"
        return "all" if self.copies is None else str(self.copies) if self.copies else "on-demand"


ON_EVERY_ENGINE = Placement()


@dataclass(frozen=True, slots=True)
class FleetState:
    """The engines that are up, according to recent reports of their lora-servers, and the adapter versions that each
    engine holds.
    """

    holds: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Engine name -> the adapter versions that the engine holds, loads or unloads."""


@dataclass(frozen=True, slots=True)
class ChangeLog:
    """The names of the versions, aliases and adapters that have changed in each of the latest revisions of a desired
    state.
    """

    revision: int = 0
    recent: tuple[frozenset[str], ...] = ()
    """One set of names for each of the latest revisions, at most `MAX_RECENT_REVISIONS`, the newest last."""

    def append(self, names: frozenset[str] | None) -> "ChangeLog":
        """Returns a new log with one more revision, in which `names` have changed. Pass None if everything may have
        changed.
        """
        recent = () if names is None else (*self.recent, names)[-MAX_RECENT_REVISIONS:]
        return ChangeLog(self.revision + 1, recent)

    def since(self, revision: int) -> frozenset[str] | None:
        """Returns the names that have changed after `revision`; None if the log does not reach back so far, so that
        everything may have changed.
        """
        missing = self.revision - revision
        if not 0 <= missing <= len(self.recent):
            return None
        return frozenset().union(*self.recent[len(self.recent) - missing :])


@dataclass(frozen=True, slots=True)
class DesiredState:
    """A consistent snapshot of what Redis stores about the adapter versions of one base model.

    It contains all versions, their phases, the aliases that point to them, and which engines should hold them (pins and
    placements).
    """

    versions: Mapping[str, AdapterVersion] = field(default_factory=dict)
    phases: Mapping[str, PhaseRecord] = field(default_factory=dict)
    """Version -> its phase record; the keys are those of `versions`."""
    aliases: tuple[Alias, ...] = ()
    """All aliases, sorted by name."""
    pins: frozenset[str] = frozenset()
    """Versions that every engine must hold and never evicts."""
    placements: Mapping[str, Placement] = field(default_factory=dict)
    """Adapter name -> its placement; `default_placement` applies to adapters that are missing."""
    upcoming: Mapping[str, int] = field(default_factory=dict)
    """Version to which an alias is about to be moved -> the Unix time, in milliseconds, at which this announcement
    expires."""
    log: ChangeLog = field(default=ChangeLog(), compare=False)
    """The names of versions, aliases and adapters (if their placement changed) that have changed in the latest
    revisions."""
    default_placement: Placement = ON_EVERY_ENGINE
    _alias_names: dict[str, tuple[str, ...]] = field(default_factory=dict, init=False, compare=False, repr=False)

    def changed_since(self, before: "DesiredState") -> frozenset[str] | None:
        """Returns the names of the versions, aliases and adapters that may have changed since the earlier state
        `before`. Returns None if the log of changes does not reach back to `before`, so that everything may have
        changed.
        """
        if self is before:
            return frozenset()
        return None if self.log.revision == before.log.revision else self.log.since(before.log.revision)

    def placement_of(self, version: str) -> Placement:
        return self.placements.get(version.partition("@")[0], self.default_placement)

    @property
    def alias_targets(self) -> Set[str]:
        """Returns the versions to which at least one alias points, as its stable version or as its canary."""
        if self.aliases and not self._alias_names:
            names: dict[str, tuple[str, ...]] = {}
            for alias in self.aliases:
                for version in alias.versions:
                    names[version] = (*names.get(version, ()), alias.alias)
            self._alias_names.update(names)  # in one step, since metrics are computed in another thread
        return self._alias_names.keys()

    def aliases_of(self, version: str) -> tuple[str, ...]:
        """Returns the names of the aliases to which the version belongs, as the stable version or as the canary."""
        return self._alias_names[version] if version in self.alias_targets else ()


@dataclass(frozen=True, slots=True)
class Change:
    """One entry in the history of versions, aliases and placements: who changed what, when and why."""

    id: str
    """The entry's id in the Redis stream of changes; a later entry has a greater id."""
    at_unix_ms: int
    kind: str
    """The kind of change: "registered", "deleted", "pin", "placement", "alias" (the alias was moved), "canary",
    "rollback", or a `Phase` value."""
    subject: str
    """The version, alias or adapter that was changed."""
    before: str
    """The value before the change, as text: a phase, a placement, "pinned" or empty, or the version to which the alias
    pointed; empty if there was none."""
    after: str
    """The value after the change, in the same form as `before`."""
    author: str
    reason: str


def is_ready(version: str, desired: DesiredState) -> bool:
    """Returns whether the version is in phase READY, so that any engine may load it."""
    record = desired.phases.get(version)
    return record is not None and record.phase is Phase.READY
