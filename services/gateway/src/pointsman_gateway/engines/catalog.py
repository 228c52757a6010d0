"""What a lora-server knows of the registry: versions, aliases and training times, in an immutable table.

The lora-servers of one model read one registry, so all engines that have reported the same share one `AdapterCatalog`.
The first engine that reports a change applies it; the others get the same object.
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
    """What differs from the catalog before; without anything that is the same there."""

    added: frozenset[str] = _NONE
    removed: frozenset[str] = _NONE
    aliases: tuple[Alias, ...] = ()
    training_seconds: frozenset[tuple[str, float | None]] = frozenset()
    """By version; None if it is not known any more."""

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.aliases or self.training_seconds)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class AdapterCatalog:
    """One state of the registry as an engine's lora-server has reported it; equal ones should be one object."""

    versions: frozenset[str] = _NONE
    """All that the engine holds, and those that its lora-server can load into it; none if there is no lora-server."""
    aliases: Mapping[str, Alias] = field(default_factory=dict)
    training_seconds: Mapping[str, float] = field(default_factory=dict)
    """By version, if it is known."""
    number: int = field(default_factory=_numbers.__next__)
    made_from: int = 0
    """The number of the catalog that a change has turned into this one."""
    moved: tuple[str, ...] = ()
    """The aliases of that change."""
    _successors: WeakValueDictionary[CatalogChange, "AdapterCatalog"] = field(default_factory=WeakValueDictionary)

    def after(
        self,
        reported: Iterable[str],
        removed: Iterable[str] = (),
        aliases: Iterable[Alias] = (),
        training_seconds: Mapping[str, float] | None = None,
    ) -> "AdapterCatalog":
        """Returns the catalog after a report of some versions and aliases; itself if nothing differs.

        The training times of `reported` and `removed` are those in `training_seconds`, or unknown.
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
        """Returns the aliases that differ from another catalog, also those that only one of them has."""
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
        """Returns whether another catalog has the same content; takes a millisecond for 10,000 versions."""
        same = self.versions == other.versions and self.aliases == other.aliases
        return same and self.training_seconds == other.training_seconds


EMPTY = AdapterCatalog()
"""Of an engine that no lora-server has reported on."""
