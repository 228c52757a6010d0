"""Catalogs, which engines share, and the table of aliases, which equals one that is computed from all reports."""

import random

import pytest
from pointsman_gateway.domain import Alias
from pointsman_gateway.engines.aliases import ALIAS_TTL_SECONDS, Aliases
from pointsman_gateway.engines.catalog import EMPTY, AdapterCatalog

from tests.gateway.doubles.clocks import Clock

V1, V2, V3 = "triage@1", "triage@2", "triage@3"
NAMES = ["triage@prod", "voice@prod", "policy@prod"]


def prod(revision: int, name: str = NAMES[0]) -> Alias:
    return Alias(name, f"{name.partition('@')[0]}@{revision}", revision)


def test_two_engines_that_report_the_same_change_share_the_catalog_after_it() -> None:
    before = AdapterCatalog(frozenset([V1]), {NAMES[0]: prod(1)}, {V1: 60.0})
    after = before.after([V2], [V1], [prod(2)], {V2: 30.0})
    assert after is before.after([V2], [V1], [prod(2)], {V2: 30.0})
    assert (after.versions, after.aliases, after.training_seconds) == ({V2}, {NAMES[0]: prod(2)}, {V2: 30.0})
    assert list(after.aliases_since(before)) == [NAMES[0]]


def test_a_report_of_what_is_known_changes_nothing() -> None:
    before = AdapterCatalog(frozenset([V1]), {NAMES[0]: prod(1)}, {V1: 60.0})
    assert before.after([V1], [V3], [prod(1)], {V1: 60.0}) is before
    assert before.after([V2], (), (), {}).aliases is before.aliases


def test_a_training_time_that_is_not_reported_again_is_forgotten() -> None:
    before = AdapterCatalog(frozenset([V1, V2]), {}, {V1: 60.0, V2: 30.0})
    assert before.after([V1], (), (), {}).training_seconds == {V2: 30.0}


def test_the_same_changes_in_other_steps_lead_to_the_same_catalog() -> None:
    aliases, start = Aliases(), AdapterCatalog(frozenset([V1]))
    at_once = start.after([V2, V3], (), [prod(2)])
    aliases.update("a", "tiny", at_once)
    in_steps = start.after([V2]).after([V3], (), [prod(2)])
    assert in_steps is not at_once
    assert aliases.shared("tiny", in_steps) is at_once
    assert aliases.shared("huge", in_steps) is in_steps
    assert aliases.shared("tiny", start) is start


def test_the_latest_catalog_is_that_of_most_engines() -> None:
    aliases, (rare, common) = Aliases(), (AdapterCatalog(frozenset([V1])), AdapterCatalog(frozenset([V2])))
    for engine, catalog in zip("abc", (common, rare, common), strict=True):
        aliases.update(engine, "tiny", catalog)
    assert aliases.latest("tiny") is common
    assert aliases.latest("huge") is EMPTY


class SlowAliases:
    """Computes the table of aliases in the slow way: from all reports at each report."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.current: dict[str, Alias] = {}
        self._reports: dict[str, AdapterCatalog] = {}
        self._since: dict[str, float] = {}

    def update(self, engine: str, catalog: AdapterCatalog) -> None:
        before = self._reports.get(engine, EMPTY)
        self._reports[engine] = catalog
        for name, alias in catalog.aliases.items():
            if before.aliases.get(name) != alias:
                known = self.current.get(name)
                if known is None or alias.revision >= known.revision:
                    self.current[name] = alias
        self._expire()

    def forget(self, engine: str) -> None:
        self._reports.pop(engine, None)
        self._expire()

    def _expire(self) -> None:
        for name, known in list(self.current.items()):
            reported = [catalog.aliases[name] for catalog in self._reports.values() if name in catalog.aliases]
            newest = max(reported, key=lambda alias: alias.revision, default=None)
            if newest is not None and newest.revision >= known.revision:
                self._since.pop(name, None)
            elif self._clock() - self._since.setdefault(name, self._clock()) >= ALIAS_TTL_SECONDS:
                del self._since[name]
                if newest is None:
                    del self.current[name]
                else:
                    self.current[name] = newest


@pytest.mark.parametrize("seed", range(20))
def test_after_any_reports_the_table_equals_one_that_goes_through_all_of_them(seed: int) -> None:
    dice, clock = random.Random(seed), Clock()
    fast, slow, reported = Aliases(clock), SlowAliases(clock), dict.fromkeys("abcd", EMPTY)
    for _ in range(300):
        engine = dice.choice("abcd")
        match dice.randrange(4):
            case 0:
                fast.forget(engine)
                slow.forget(engine)
                reported[engine] = EMPTY
            case 1:  # a restart: some aliases, old ones among them
                seen = [prod(dice.randrange(1, 9), name) for name in dice.sample(NAMES, dice.randrange(4))]
                reported[engine] = AdapterCatalog(aliases={alias.alias: alias for alias in seen})
            case 2:
                reported[engine] = reported[dice.choice("abcd")]
            case _:
                changed = [prod(dice.randrange(1, 9), name) for name in dice.sample(NAMES, dice.randrange(3))]
                reported[engine] = reported[engine].after((), (), changed)
        catalog = fast.shared("tiny", reported[engine])
        fast.update(engine, "tiny", catalog)
        slow.update(engine, catalog)
        assert {alias.alias: alias for alias in fast.of("tiny")} == slow.current
        clock.passes(dice.choice((0, 1, 20, 61)))
