"""Computes which engines should hold which adapter versions from how much each version is used. The result depends only
on the arguments.

A version gets as many copies as its tokens per second need, relative to what one engine can generate. Existing copies
are kept, and a copy that an engine has loaded for a request becomes part of the plan. The plan only adds a load if a
version has no copy, or if its copies or their engine are too busy.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from pointsman_lora_server.adapters.demand import version_loads
from pointsman_lora_server.adapters.rendezvous import ranked_engines
from pointsman_lora_server.domain import EngineReport, adapter_name


class MoveReason(StrEnum):
    """Why the plan adds a copy of a version: it has none (FIRST_COPY), its copies are too busy (DEMAND), or their
    engine is (BALANCE).
    """

    FIRST_COPY = "first_copy"
    DEMAND = "demand"
    BALANCE = "balance"


@dataclass(frozen=True, slots=True)
class Move:
    """A load that the plan requires: the engine has to load the adapter version."""

    version: str
    engine: str
    reason: MoveReason


@dataclass(frozen=True, slots=True)
class PlanTerms:
    """The thresholds of `next_plan`. A "load" is tokens per second, as a fraction of what one engine can generate."""

    grow_above: float = 0.8
    """A version gets more copies if its load per copy, by the fast average, is above this."""
    shrink_below: float = 0.3
    """A version loses a copy if, by both averages, its load per copy would be below this with one copy less. The
    distance from `grow_above` prevents copies from being added and removed again and again."""
    displace_factor: float = 2.0
    """A version only takes the slot of a version that is already placed if its load is more than this many times that
    version's."""
    imbalance: float = 1.5
    """If an engine's load is above the mean load of all engines times this factor, a copy of one of its versions is
    added on another engine."""
    busy_above: float = 0.6
    """Copies are only added for balance if the engine's load is above this."""


DEFAULT_TERMS = PlanTerms()


@dataclass(frozen=True, slots=True)
class Plan:
    """Which engines should hold which adapter versions, and the loads that change the previous plan into this one."""

    engines: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Adapter version -> the engines on which it is placed; a version for which no engine has room is missing."""
    moves: tuple[Move, ...] = ()


def next_plan(
    before: Plan,
    reports: Sequence[EngineReport],
    versions: Collection[str],
    max_moves: int,
    terms: PlanTerms = DEFAULT_TERMS,
    kept: Collection[str] = frozenset(),
) -> Plan:
    """Returns the plan that follows `before`, with at most `max_moves` loads, and at most one load of a first copy on
    each engine, so that requests do not wait for many loads. These limits do not apply to versions in `kept`, and to
    first copies of versions whose engines have gone.

    `reports` has a report for each engine that is up, and `versions` the versions to place. A version with a copy in
    `before` on an engine that is up keeps at least one copy, unless a version that is used much more needs the slot.
    Versions in `kept`, such as canaries, are placed first and lose no copy. A new version in `kept` is placed on the
    engines where `before` has the adapter's other versions, because it is about to answer their requests.
    """
    if not reports:
        return before
    planner = _Planner(before, reports, versions, max_moves, terms, frozenset(kept))
    planner.keep()
    planner.place_first_copies()
    planner.add_copies()
    planner.balance()
    return planner.result()


class _Planner:
    """Builds the next plan in four steps, which `next_plan` calls in order. Loads are fractions of one engine's
    capacity; ties are broken by names.
    """

    def __init__(
        self,
        before: Plan,
        reports: Sequence[EngineReport],
        versions: Collection[str],
        max_moves: int,
        terms: PlanTerms,
        kept: frozenset[str],
    ) -> None:
        self._terms, self._before, self._left, self._kept = terms, before, max_moves, kept
        self._reports = {report.engine: report for report in sorted(reports, key=lambda report: report.engine)}
        self._moves: list[Move] = []
        capacity = sum(report.tokens_per_second for report in reports) / len(reports)
        self._fast, self._slow = version_loads(self._reports.values(), versions, capacity)
        self._holders: dict[str, list[str]] = {}
        for report in self._reports.values():
            for version in report.holds & self._fast.keys():
                self._holders.setdefault(version, []).append(report.engine)
        self._order = sorted(versions, key=lambda version: (-self._value(version), version))
        room = {name: max(0, report.slots - report.reserved) for name, report in self._reports.items()}
        self._fits = len(self._order) <= sum(room.values())
        if not self._fits:  # some versions can only be loaded on request: each engine keeps a slot for them
            room = {name: max(0, slots - 1) for name, slots in room.items()}
        self._room = room
        self._placed: dict[str, list[str]] = {}
        self._on: dict[str, set[str]] = {name: set() for name in self._reports}
        self._load = dict.fromkeys(self._reports, 0.0)

    def keep(self) -> None:
        """Keeps the copies of the previous plan that are still needed, starting with the most used versions."""
        for version in self._order:
            up = [engine for engine in self._engines_before(version) if engine in self._reports]
            wanted = max(1, self._wanted(version, len(up)))
            holding = [engine for engine in up if version in self._reports[engine].holds]
            if not self._fits and version not in self._kept:
                up = holding  # the others were evicted for versions that requests needed more
            kept = sorted(up, key=lambda engine: engine not in holding)[:wanted]
            self._set(version, [engine for engine in kept if self._has_room(engine)])

    def place_first_copies(self) -> None:
        """Gives each version without a copy one: on an engine that has already loaded it for a request, or else by a
        planned load.
        """
        free = set(self._reports)
        for version in self._order:
            if self._placed.get(version):
                continue
            if engine := self._adoptable(version):
                self._set(version, [engine])
                continue
            is_urgent = version in self._kept or self._is_lost(version)
            if is_urgent or (self._fits and self._left > 0):
                room = self._with_room(version)
                engine = self._choose(version, self._fast[version], room if is_urgent else free.intersection(room))
                if engine is not None:
                    free.discard(engine)
                    self._move(version, engine, MoveReason.FIRST_COPY)

    def add_copies(self) -> None:
        """Adds copies of the versions whose copies are too busy, starting with the highest load per copy."""
        busy = [
            version
            for version in self._order
            if self._wanted(version, len(self._copies(version))) > len(self._copies(version)) > 0
        ]
        for version in sorted(busy, key=lambda one: (-self._fast[one] / len(self._copies(one)), one)):
            while len(self._copies(version)) < min(
                self._wanted(version, len(self._copies(version))), len(self._reports)
            ):
                if not self._add_copy(version, MoveReason.DEMAND):
                    break

    def balance(self) -> None:
        """If an engine's load is far above the mean, adds a copy of its most used version on a less loaded engine."""
        mean = sum(self._load.values()) / len(self._load)
        for engine in sorted(self._load, key=lambda name: (-self._load[name], name)):
            if self._load[engine] <= max(self._terms.busy_above, self._terms.imbalance * mean):
                return
            on = sorted(self._on[engine], key=lambda version: (-self._share(version), version))
            if on:
                self._add_copy(on[0], MoveReason.BALANCE)

    def result(self) -> Plan:
        return Plan(
            {version: tuple(engines) for version, engines in sorted(self._placed.items()) if engines},
            tuple(self._moves),
        )

    def _engines_before(self, version: str) -> Iterable[str]:
        engines = self._before.engines
        if version in engines or version not in self._kept:
            return engines.get(version, ())
        return dict.fromkeys(
            name for other, names in engines.items() if adapter_name(other) == adapter_name(version) for name in names
        )

    def _value(self, version: str) -> float:
        if version in self._kept:
            return math.inf
        bonus = self._terms.displace_factor if version in self._before.engines else 1.0
        return bonus * max(self._fast[version], self._slow[version])

    def _copies(self, version: str) -> list[str]:
        return self._placed.get(version, [])

    def _share(self, version: str) -> float:
        return self._fast[version] / max(1, len(self._copies(version)))

    def _wanted(self, version: str, copies: int) -> int:
        """Returns how many copies the version should have if it has `copies` now."""
        grown = math.ceil(self._fast[version] / self._terms.grow_above)
        if grown > copies:
            return min(grown, len(self._reports))
        load = math.inf if version in self._kept else max(self._fast[version], self._slow[version])
        while copies > 1 and load / (copies - 1) < self._terms.shrink_below:
            copies -= 1
        return copies

    def _add_copy(self, version: str, reason: MoveReason) -> bool:
        share = self._fast[version] / (len(self._copies(version)) + 1)
        others = [engine for engine in self._reports if engine not in self._copies(version)]
        warm = [engine for engine in self._held_by(version) if engine in others and self._has_room(engine)]
        if engine := self._choose(version, share, warm):
            self._set(version, [*self._copies(version), engine])
            return True
        if self._left <= 0:
            return False
        engine = self._choose(version, share, self._with_room(version)) or self._displace(version, share, others)
        if engine is None:
            return False
        self._move(version, engine, reason)
        return True

    def _displace(self, version: str, share: float, engines: Iterable[str]) -> str | None:
        """Removes the least used version from the engine with the least load to make room for a copy of `version` with
        the load `share`. Returns the engine; None if no engine has a version that is used much less than the new copy.
        """
        for engine in sorted(engines, key=lambda name: (self._load[name], name)):
            weakest = min(self._on[engine], key=lambda one: (self._value(one), one), default="")
            if weakest and self._value(weakest) < share:
                self._set(weakest, [each for each in self._copies(weakest) if each != engine])
                return engine
        return None

    def _adoptable(self, version: str) -> str | None:
        """Returns an engine that already holds the version and has room for it in the plan, or on which it takes the
        slot of a version that is used much less; None if there is no such engine.
        """
        holding = self._held_by(version)
        if engine := self._choose(version, self._fast[version], [name for name in holding if self._has_room(name)]):
            return engine
        return self._displace(version, self._value(version), holding) if holding else None

    def _is_lost(self, version: str) -> bool:
        """Returns whether the version had copies in the previous plan and all their engines have gone."""
        engines = self._before.engines.get(version, ())
        return bool(engines) and self._reports.keys().isdisjoint(engines)

    def _held_by(self, version: str) -> list[str]:
        return self._holders.get(version, [])

    def _with_room(self, version: str) -> list[str]:
        return [name for name in self._reports if self._has_room(name) and name not in self._copies(version)]

    def _has_room(self, engine: str) -> bool:
        return len(self._on[engine]) < self._room[engine]

    def _choose(self, version: str, share: float, engines: Collection[str]) -> str | None:
        """Returns the first of `engines`, ordered by rendezvous hashing, whose load with the new copy stays below
        `imbalance` times the mean and which has no more versions than the mean. If there is none, returns the engine
        with the least load; None if `engines` is empty.
        """
        if not engines:
            return None
        bound = self._terms.imbalance * (sum(self._load.values()) + share) / len(self._load)
        most = math.ceil((sum(map(len, self._on.values())) + 1) / len(self._on))
        ranked = ranked_engines(version, engines)
        for engine in ranked:
            if self._load[engine] + share <= bound and len(self._on[engine]) < most:
                return engine
        return min(ranked, key=lambda engine: self._load[engine])

    def _move(self, version: str, engine: str, reason: MoveReason) -> None:
        self._left -= 1
        self._moves.append(Move(version, engine, reason))
        self._set(version, [*self._copies(version), engine])

    def _set(self, version: str, engines: list[str]) -> None:
        """Places the version on `engines` and nowhere else, and updates the engines' loads."""
        for engine in self._copies(version):
            self._load[engine] -= self._share(version)
            self._on[engine].discard(version)
        self._placed[version] = engines
        for engine in engines:
            self._load[engine] += self._share(version)
            self._on[engine].add(version)
