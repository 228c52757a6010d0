"""Adds up a provider's export and the receipts' charges by model, day, key, service tier and kind of token."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pointsman_gateway.domain.usage import COMPLETION_KINDS, PROMPT_KINDS

from pointsman_lab.reconcile.charges import Charge
from pointsman_lab.reconcile.days import Days
from pointsman_lab.reconcile.exports.lines import ALL_KINDS, REQUESTS, TOOLS, Export, Number, size

STANDARD_TIER, BATCH = "", "batch"
"""The names of two service tiers.

Batches are always compared separately, because a gateway's requests are never part of a batch.
"""

_SNAPSHOT = re.compile(r"(-\d{4}-\d{2}-\d{2}|-\d{8}|-\d{4}|-v\d+(:\d+)?|-\d+:\d+)$")
"""The pattern of the version at the end of a provider's name of a model, such as -2024-07-18 or -1:0."""


class ChargeGroup(NamedTuple):
    """The unit of comparison: the charges of one model on one day, with one key and one service tier."""

    model: str
    day: float
    """Unix seconds at which the day begins. If the export has longer intervals, an interval takes the place of the
    day.
    """
    key: str
    """The name of the engine that uses the key; empty if keys are not compared, or no engine is known for the key."""
    tier: str
    """The service tier; empty for the standard tier, or if tiers are not compared."""


@dataclass(slots=True)
class Amounts:
    """The amounts of one kind of token in one group of charges, according to the export and to the receipts."""

    exported: Number = 0
    """The tokens or requests that the export states."""
    received: Number = 0
    """The tokens or requests that the receipts state."""
    estimated: Number = 0
    """The part of `received` that is estimated."""
    exported_usd: Number = 0
    """The cost that the export states, in picodollars."""
    received_usd: Number = 0
    """The cost that the receipts state, in picodollars."""
    estimated_usd: Number = 0
    """The part of `received_usd` that is estimated."""

    @property
    def difference(self) -> Number:
        """Returns the export's tokens or requests minus the receipts' tokens or requests."""
        return self.exported - self.received

    @property
    def difference_usd(self) -> Number:
        return self.exported_usd - self.received_usd

    @property
    def size(self) -> Number:
        """Returns the absolute difference between export and receipts, in the unit of these amounts."""
        return size(self.exported - self.received)

    @property
    def size_usd(self) -> Number:
        return size(self.exported_usd - self.received_usd)


@dataclass
class Joined:
    """A provider's export joined with the receipts' charges: the amounts in both, by group of charges and kind of
    token.

    A group has the charges of one model, day, key and service tier.
    """

    export: Export
    groups: dict[ChargeGroup, dict[str, Amounts]] = field(default_factory=dict)
    """The amounts, by group of charges, then by kind of token."""
    hedged: dict[ChargeGroup, int] = field(default_factory=lambda: defaultdict(int))
    """The number of charges of hedged requests (sent to two engines at once), by group of charges."""
    unpriced: dict[ChargeGroup, int] = field(default_factory=lambda: defaultdict(int))
    """The number of charges whose cost is unknown, by group of charges."""

    def amounts(self, group: ChargeGroup, kind: str) -> Amounts:
        return self.groups.setdefault(group, {}).setdefault(kind, Amounts())


@dataclass(frozen=True, slots=True)
class Names:
    """Maps the names of models and keys in a provider's export and in receipts, so that export and receipts can be
    compared.
    """

    models: Mapping[str, str] = field(default_factory=dict)
    """The configuration's name of each model by its name in the export; an empty name leaves the model out."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """The engine that uses each key, by the key's name in the export; an empty name leaves the key out."""
    upstreams: Mapping[str, str] = field(default_factory=dict)
    """The provider's name of an engine's model, by the engine's name."""
    upstreams_by_model: Mapping[str, str] = field(default_factory=dict)
    """The provider's name of a model by the configuration's name, for receipts that do not name their engine."""
    known: frozenset[str] = frozenset()
    """The providers' names of all models that the configuration uses."""

    def model_of_line(self, name: str) -> str | None:
        """Returns the name under which a model of the export is compared; None if the model is left out.

        The result is the provider's name of a model in the configuration if one matches, and the name in the export if
        none does.
        """
        if name in self.models:
            ours = self.models[name]
            return self.upstreams_by_model.get(ours, ours) or None
        if name in self.known or not name:
            return name
        plain = plain_model(name)
        return next((known for known in self.known if plain_model(known) == plain), name)

    def key_of_line(self, key: str | None) -> str | None:
        """Returns the name of the engine that uses a key of the export, by the user's mapping of keys.

        Returns "" if the mapping has no engine for the key, and None if lines with this key are left out of the
        comparison.
        """
        if not self.keys or key is None:
            return ""
        return (self.keys[key] or None) if key in self.keys else ""

    def key_of_charge(self, charge: Charge) -> str:
        return charge.engine if charge.engine in self.keys.values() else ""

    def model_of_charge(self, charge: Charge) -> str:
        return self.upstreams.get(charge.engine) or self.upstreams_by_model.get(charge.model, charge.model)


def plain_model(name: str) -> str:
    """Returns a model's name without its version, for a comparison: "gpt-4o" for "gpt 4o 2024-08-06"."""
    plain = re.sub(r"[\s_]+", "-", name.strip().lower())
    return _SNAPSHOT.sub("", plain)


def join(
    export: Export,
    charges: Sequence[Charge],
    days: Days,
    names: Names,
    time_of: Callable[[Charge], float] = lambda charge: charge.ended,
) -> Joined:
    """Adds up the lines of the export and the charges by group and kind of token, for the days in `days`.

    A group is one model, day, key and service tier. `names` translates the export's names. `time_of` returns the Unix
    seconds by which a charge belongs to a day, by default the time at which the charge's request ended.
    """
    joined = Joined(export)
    by_tier = any(line.tier not in (None, BATCH) for line in export.lines)
    by_model = any(line.model for line in export.lines)
    by_key = any(line.key is not None for line in export.lines)
    has_requests = any(line.kind == REQUESTS for line in export.lines)
    only_all = {line.kind for line in export.lines} <= {ALL_KINDS, TOOLS}
    for line in export.lines:
        day, model, key = days.of_line(line), names.model_of_line(line.model), names.key_of_line(line.key)
        if day is None or model is None or key is None:
            continue
        tier = line.tier if by_tier or line.tier == BATCH else None
        amounts = joined.amounts(ChargeGroup(model, day, key, tier or STANDARD_TIER), line.kind)
        amounts.exported += line.count or 0
        amounts.exported_usd += line.picodollars or 0
    for charge in charges:
        day = days.of_time(time_of(charge))
        if day is None:
            continue
        tier = charge.tier if by_tier else ""
        key = names.key_of_charge(charge) if by_key else ""
        group = ChargeGroup(names.model_of_charge(charge) if by_model else "", day, key, tier)
        joined.hedged[group] += charge.is_hedged
        joined.unpriced[group] += not charge.is_priced
        for kind, tokens in charge.counts.items():
            amounts = joined.amounts(group, ALL_KINDS if only_all else folded(kind, export.kinds))
            amounts.received += tokens
            amounts.estimated += tokens if charge.is_estimate else 0
        for kind, picodollars in charge.picodollars.items():
            amounts = joined.amounts(group, ALL_KINDS if only_all else folded(kind, export.kinds))
            amounts.received_usd += picodollars
            amounts.estimated_usd += picodollars if charge.is_estimate else 0
        if has_requests:
            joined.amounts(group, REQUESTS).received += charge.requests
    return joined


def folded(kind: str, kinds: Iterable[str]) -> str:
    """Returns the kind of token under which an export counts tokens of the finer kind `kind`: "prompt" for "cached".

    `kinds` are the kinds that the export distinguishes; a kind among them is returned unchanged.
    """
    if kind in kinds or kind in (TOOLS, REQUESTS):
        return kind
    if kind == "cache_write_1h" and "cache_write" in kinds:
        return "cache_write"
    if kind in PROMPT_KINDS or kind == "cached":
        return "prompt"
    return "completion" if kind in COMPLETION_KINDS else kind
