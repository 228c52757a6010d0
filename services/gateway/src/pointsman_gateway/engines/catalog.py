"""An immutable table of the adapter versions, aliases and training times that a lora-server reports.

The lora-servers of one model read the same registry, so their engines usually have equal tables, and share one
`AdapterCatalog`. The first engine that reports a change makes the new catalog; for the other engines, an equal report
gives the same object.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from weakref import WeakValueDictionary

from pointsman_gateway.domain import Alias

_numbers = count(1)
_NONE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class CatalogChange:
    """The differences between an adapter catalog and the catalog that replaces it: versions, aliases and training
    times.
    """

    added: frozenset[str] = _NONE
    removed: frozenset[str] = _NONE
    aliases: tuple[Alias, ...] = ()
    training_seconds: frozenset[tuple[str, float | None]] = frozenset()
    """(version, seconds) of each training time that differs; None if it is no longer known."""

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.aliases or self.training_seconds)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class AdapterCatalog:
    """The adapter versions, aliases and training times that an engine's lora-server has reported; immutable.

    Engines whose catalogs are equal should share one object.
    """

    versions: frozenset[str] = _NONE
    """The adapter versions that are loaded in the engine, and those that its lora-server can load into it; none without
    a lora-server."""
    aliases: Mapping[str, Alias] = field(default_factory=dict)
    training_seconds: Mapping[str, float] = field(default_factory=dict)
    """The seconds that a version was trained, by version; only of versions for which they are known."""
    number: int = field(default_factory=_numbers.__next__)
    """Identifies the catalog in this process."""
    made_from: int = 0
    """The `number` of the catalog from which `after` made this one; 0 if `after` did not make it."""
    moved: tuple[str, ...] = ()
    """The names of the aliases that `after` changed when it made this catalog."""
    _successors: WeakValueDictionary[CatalogChange, "AdapterCatalog"] = field(default_factory=WeakValueDictionary)

    def after(
        self,
        reported: Iterable[str],
        removed: Iterable[str] = (),
        aliases: Iterable[Alias] = (),
        training_seconds: Mapping[str, float] | None = None,
    ) -> "AdapterCatalog":
        """Returns the catalog after a report of changes; returns this object if nothing changes.

        `reported` are versions to add, and `removed` versions to remove. Each alias in `aliases` replaces the alias of
        its name. `training_seconds` has the training times, in seconds by version, of the versions in `reported` and
        `removed`; the training time of a version that is missing in `training_seconds` becomes unknown.
        """
        reported, removed, seconds = frozenset(reported), frozenset(removed), training_seconds or {}
        known = self.training_seconds
        change = CatalogChange(
            reported - self.versions,
            removed & self.versions,
            tuple(sorted((a for a in aliases if self.aliases.get(a.alias) != a), key=lambda alias: alias.alias)),
            frozenset((v, seconds.get(v)) for v in reported | removed if known.get(v) != seconds.get(v)),
        )
        if not change:
            return self
        following = self._successors.get(change)
        if following is None:
            following = self._successors[change] = self._apply(change)
        return following

    def _apply(self, change: CatalogChange) -> "AdapterCatalog":
        versions, aliases, seconds = self.versions, self.aliases, self.training_seconds
        if change.added or change.removed:
            versions = versions.difference(change.removed).union(change.added)
        if change.aliases:
            aliases = {**aliases, **{alias.alias: alias for alias in change.aliases}}
        if change.training_seconds:
            seconds = {**seconds, **{v: known for v, known in change.training_seconds if known is not None}}
            for version, known in change.training_seconds:
                if known is None:
                    del seconds[version]
        return AdapterCatalog(
            versions, aliases, seconds, made_from=self.number, moved=tuple(a.alias for a in change.aliases)
        )

    def aliases_since(self, before: "AdapterCatalog") -> Iterable[str]:
        """Returns the names of the aliases that differ between this catalog and `before`, or are only in one."""
        if self.aliases is before.aliases:
            return ()
        if self.made_from == before.number:
            return self.moved
        known, names = before.aliases, self.aliases
        differing = [name for name, alias in names.items() if (old := known.get(name)) is not alias and old != alias]
        return [*differing, *(known.keys() - names.keys())] if known else differing

    @property
    def sizes(self) -> tuple[int, int, int]:
        return len(self.versions), len(self.aliases), len(self.training_seconds)

    def equals(self, other: "AdapterCatalog") -> bool:
        """Returns whether `other` has the same versions, aliases and training times."""
        same = self.versions == other.versions and self.aliases == other.aliases
        return same and self.training_seconds == other.training_seconds


EMPTY = AdapterCatalog()
"""The catalog of an engine on which no lora-server has reported."""
