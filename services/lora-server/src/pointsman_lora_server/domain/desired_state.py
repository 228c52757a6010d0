"""The desired state of all engines, as Redis has it: phases, aliases, pins and placements, and changes of it."""

import enum
from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from pointsman_lora_server.domain.adapter import AdapterVersion, Alias

MAX_RECENT_REVISIONS = 64
"""A reader that is further behind reads the complete state."""


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
        """Returns the names of versions, aliases and adapters that may differ from an earlier state.

        None if the log of changes does not reach back so far, so that everything may differ.
        """
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


def is_ready(version: str, desired: DesiredState) -> bool:
    """Returns whether the version is in phase READY, so that any engine may load it."""
    record = desired.phases.get(version)
    return record is not None and record.phase is Phase.READY
