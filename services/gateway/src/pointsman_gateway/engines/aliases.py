"""The table of adapter aliases: each names an adapter version, such as "support" for "support@3f9a1c".

All engines and configurations of a gateway share one table, so that an alias changes everywhere at once.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pointsman_gateway.domain import Alias
from pointsman_gateway.engines.catalog import EMPTY, AdapterCatalog

ALIAS_TTL_SECONDS = 60.0
"""Seconds for which an alias keeps its version after the last lora-server has ceased to report its current revision.

For this time, reports with a lower revision change nothing: they may come from a lora-server that has restarted and not
read the registry yet. Afterwards they count, because the registry may have been emptied, and begin again at revision 1.
"""

MAX_EXPIRED = 1000
"""Maximum number of aliases that expire when an engine's report arrives, so that the event loop is not delayed; further
aliases expire at the next report."""

MAX_COMPARED = 3
"""Maximum number of earlier catalogs that `Aliases.shared` compares with a new one."""

_Key = tuple[str, str]
"""The base model and the name of an alias."""


@dataclass(frozen=True, slots=True)
class _Report:
    """The last report of one engine's lora-server."""

    model: str
    catalog: AdapterCatalog


class Aliases:
    """The adapter aliases of each base model, merged from the catalogs that the lora-servers of the model's engines
    report.

    A catalog lists an engine's adapter versions and aliases. If catalogs differ on an alias, the alias with the highest
    revision counts. An alias stays for `ALIAS_TTL_SECONDS` after the last lora-server has ceased to report it. The
    lora-servers of one model read the same registry, so there are only a few different catalogs.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._current: dict[str, dict[str, Alias]] = {}
        """By base model, its aliases by name."""
        self._reports: dict[str, _Report] = {}
        """By the engine's name, its last report."""
        self._catalogs: dict[str, Counter[AdapterCatalog]] = {}
        """By base model, the number of engines that have reported each catalog last."""
        self._unreported_since: dict[_Key, float] = {}
        """Since when, on `clock`, no engine reports an alias as `_current` has it; the earliest first."""

    def get(self, model: str, alias: str) -> Alias | None:
        known = self._current.get(model)
        return None if known is None else known.get(alias)

    def of(self, model: str) -> Sequence[Alias]:
        return list(self._current.get(model, {}).values())

    def shared(self, model: str, catalog: AdapterCatalog) -> AdapterCatalog:
        """Returns the stored catalog of the base model `model` that equals `catalog`, so that engines with equal
        catalogs share one object. Returns `catalog` itself if none is found.

        Compares only the `MAX_COMPARED` newest catalogs with the same numbers of entries. Equal catalogs can be
        different objects if lora-servers have reported the same changes in different steps.
        """
        known = self._catalogs.get(model)
        if not known or catalog in known:
            return catalog
        candidates = [other for other in known if other.sizes == catalog.sizes]
        return next((other for other in candidates[-MAX_COMPARED:] if other.equals(catalog)), catalog)

    def latest(self, model: str) -> AdapterCatalog:
        """Returns the adapter catalog that the most engines of the base model `model` have reported; an empty one if no
        engine has reported a catalog.
        """
        known = self._catalogs.get(model)
        return max(known, key=known.__getitem__) if known else EMPTY

    def update(self, engine: str, model: str, catalog: AdapterCatalog) -> None:
        """Stores `catalog` as the latest one of the engine named `engine`, and updates the aliases of the base model
        `model`.

        An alias is replaced by one with the same or a higher revision. Also removes aliases that no engine has
        reported for `ALIAS_TTL_SECONDS`.
        """
        before = self._reports.get(engine)
        if before is None or before.catalog is not catalog or before.model != model:
            self._reports[engine] = _Report(model, catalog)
            counts = self._catalogs.setdefault(model, Counter())
            is_first = catalog not in counts
            counts[catalog] += 1
            if before is not None:
                self._withdraw(before)
            known = before.catalog if before is not None and before.model == model else EMPTY
            if is_first or known is not EMPTY:
                self._move(model, catalog, catalog.aliases_since(known))
            if before is not None and before.model != model:
                self._check(before.model, before.catalog.aliases_since(self.latest(before.model)))
        self._expire()

    def forget(self, engine: str) -> None:
        """Removes the catalog of the engine named `engine`, which is not watched any more.

        Also removes aliases that no engine has reported for `ALIAS_TTL_SECONDS`.
        """
        report = self._reports.pop(engine, None)
        if report is not None and self._withdraw(report):
            self._check(report.model, report.catalog.aliases_since(self.latest(report.model)))
        self._expire()

    def _withdraw(self, report: _Report) -> bool:
        """Subtracts one engine from the count of a report's catalog; returns whether it was the last engine."""
        counts = self._catalogs[report.model]
        counts[report.catalog] -= 1
        if counts[report.catalog]:
            return False
        del counts[report.catalog]
        return True

    def _move(self, model: str, catalog: AdapterCatalog, names: Iterable[str]) -> None:
        """Updates the aliases `names` from a catalog, in which some of them may be missing."""
        current, unreported, late = self._current.setdefault(model, {}), self._unreported_since, []
        if not current:
            current.update(catalog.aliases)
            return
        for name in names:
            alias, known = catalog.aliases.get(name), current.get(name)
            if alias is not None and (known is None or alias.revision >= known.revision):
                current[name] = alias
                if unreported:
                    unreported.pop((model, name), None)
            else:
                late.append(name)
        self._check(model, late)

    def _check(self, model: str, names: Iterable[str]) -> None:
        """Starts the expiry of those aliases `names` that no engine reports any more as they are, and stops it for the
        others.
        """
        now, current = self._clock(), self._current.get(model, {})
        if not self._catalogs.get(model):
            for name in names:
                if name in current:
                    self._unreported_since.setdefault((model, name), now)
            return
        for name in names:
            known, newest = current.get(name), self._newest(model, name)
            if known is None or (newest is not None and newest.revision >= known.revision):
                self._unreported_since.pop((model, name), None)
            else:
                self._unreported_since.setdefault((model, name), now)

    def _expire(self) -> None:
        """Replaces aliases unreported for `ALIAS_TTL_SECONDS` by the newest reported one, or removes them."""
        if not self._unreported_since:
            return
        due = self._clock() - ALIAS_TTL_SECONDS
        for _ in range(min(MAX_EXPIRED, len(self._unreported_since))):
            key = next(iter(self._unreported_since))
            if self._unreported_since[key] > due:
                return
            del self._unreported_since[key]
            model, name = key
            newest = self._newest(model, name)
            if newest is None:
                del self._current[model][name]
            else:
                self._current[model][name] = newest

    def _newest(self, model: str, name: str) -> Alias | None:
        """Returns the alias `name` with the highest revision in the model's catalogs; None if none has it."""
        reported = [catalog.aliases[name] for catalog in self._catalogs.get(model, ()) if name in catalog.aliases]
        return max(reported, key=lambda alias: alias.revision, default=None)
