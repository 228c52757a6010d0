"""The desired state of all engines of one base model, as stored in Redis, and the log of its changes."""

import enum
from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from pointsman_lora_server.domain.adapter import AdapterVersion, Alias

MAX_RECENT_REVISIONS = 64
"""Number of revisions that a `ChangeLog` keeps. A reader that is further behind must read everything again."""


class Phase(enum.Enum):
    """How far an adapter version has come between its registration and its retirement.

    It is stored in Redis and is the same for all engines. Whether an engine has loaded the version is no part of it.
    """

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
    """The part after the "@" of the alias to move to this version once an engine holds it; empty if there is none."""
    force: bool = False
    """Whether the alias is moved even if the evaluation shows no gain over prompting."""


@dataclass(frozen=True, slots=True)
class Placement:
    """How many engines keep an adapter's versions loaded.

    It applies only to versions to which an alias points, as its stable version or as its canary.
    """

    copies: int | None = None
    """Number of engines, or all if there are fewer. 0: an engine loads a version when a request needs it. None: all."""
    by_demand: bool = False
    """Whether the number follows from how much the versions are used (`copies` is None then)."""

    @property
    def is_counted(self) -> bool:
        """Returns whether a version belongs on a number of engines, and not on all or only on those that need it."""
        return self.by_demand or bool(self.copies)

    def __str__(self) -> str:
        if self.by_demand:
            return "auto"
        return "all" if self.copies is None else str(self.copies) if self.copies else "on-demand"


ON_EVERY_ENGINE = Placement()


@dataclass(frozen=True, slots=True)
class FleetState:
    """The engines that are up according to a recent report of their lora-server, and the versions that each holds."""

    holds: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Engine name -> the versions that it holds, loads or unloads."""


@dataclass(frozen=True, slots=True)
class ChangeLog:
    """Which names (of versions, aliases and adapters) have changed in each of the latest revisions of a state."""

    revision: int = 0
    recent: tuple[frozenset[str], ...] = ()
    """One set of names for each of the latest revisions, at most `MAX_RECENT_REVISIONS`, the newest last."""

    def append(self, names: frozenset[str] | None) -> "ChangeLog":
        """Returns a new log with one more revision, in which `names` have changed; None if everything may have
        changed.
        """
        recent = () if names is None else (*self.recent, names)[-MAX_RECENT_REVISIONS:]
        return ChangeLog(self.revision + 1, recent)

    def since(self, revision: int) -> frozenset[str] | None:
        """Returns the names that have changed since `revision`; None if everything may have changed."""
        missing = self.revision - revision
        if not 0 <= missing <= len(self.recent):
            return None
        return frozenset().union(*self.recent[len(self.recent) - missing :])


@dataclass(frozen=True, slots=True)
class DesiredState:
    """A consistent snapshot of what Redis says about the adapter versions of a base model.

    It says which versions there are, in which phase, which aliases point to them, and which engines should hold them
    (pins and placements).
    """

    versions: Mapping[str, AdapterVersion] = field(default_factory=dict)
    phases: Mapping[str, PhaseRecord] = field(default_factory=dict)
    """Version -> its phase record; the keys are those of `versions`."""
    aliases: tuple[Alias, ...] = ()
    """All aliases, sorted by name."""
    pins: frozenset[str] = frozenset()
    """Versions that every engine must hold and never evicts."""
    placements: Mapping[str, Placement] = field(default_factory=dict)
    """Adapter name -> its placement; an adapter that is not listed has `default_placement`."""
    upcoming: Mapping[str, int] = field(default_factory=dict)
    """Version that an alias is about to be moved to -> the Unix time in milliseconds at which this announcement
    expires."""
    log: ChangeLog = field(default=ChangeLog(), compare=False)
    """Which names of versions, aliases and adapters (for placements) have changed in the latest revisions."""
    default_placement: Placement = ON_EVERY_ENGINE
    _alias_names: dict[str, tuple[str, ...]] = field(default_factory=dict, init=False, compare=False, repr=False)

    def changed_since(self, before: "DesiredState") -> frozenset[str] | None:
        """Returns the names of the versions, aliases and adapters that may have changed since the earlier state
        `before`. Returns None if the log of changes does not say so; then everything may have changed.
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
        """Returns the names of the aliases that point to the version, directly or by their canary."""
        return self._alias_names[version] if version in self.alias_targets else ()


@dataclass(frozen=True, slots=True)
class Change:
    """One entry in the history of versions, aliases and placements: who changed what, when and why."""

    id: str
    """The entry's id in the Redis stream of changes; a later entry has a greater one."""
    at_unix_ms: int
    kind: str
    """The kind of change: "registered", "deleted", "pin", "placement", "alias" (a move), "canary", "rollback", or a
    `Phase` value."""
    subject: str
    """The version, alias or adapter that was changed."""
    before: str
    """The earlier phase, placement, pin ("pinned" or empty) or target of the alias, as text; empty if none."""
    after: str
    """The new phase, placement, pin or target, in the same form as `before`."""
    author: str
    reason: str


def is_ready(version: str, desired: DesiredState) -> bool:
    """Returns whether the version is in phase READY, so that any engine may load it."""
    record = desired.phases.get(version)
    return record is not None and record.phase is Phase.READY
