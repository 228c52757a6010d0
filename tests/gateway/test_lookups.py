"""Lookups of the engines that hold a version follow every report, and equal a search through all engines."""

import random
from dataclasses import replace

import pytest
from pointsman_gateway.engines.catalog import EMPTY, AdapterCatalog
from pointsman_gateway.engines.engine_state import Engine, EngineState
from pointsman_gateway.engines.engines import Engines
from pointsman_gateway.engines.lookups import ModelLookups

VERSIONS = [f"triage@{number}" for number in range(6)]
CATALOGS = [EMPTY, AdapterCatalog(frozenset(VERSIONS[:3])), AdapterCatalog(frozenset(VERSIONS))]


def lookups(*states: EngineState, max_lookups: int = 100) -> ModelLookups:
    found = ModelLookups("tiny", {}, max_lookups)
    for state in states:
        found.add(state)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_after_any_reports_a_lookup_equals_a_search_through_all_engines(seed: int) -> None:
    dice = random.Random(seed)
    states = [EngineState(Engine(f"engine-{number}", "tiny")) for number in range(4)]
    engines = Engines(states[:2])
    for _ in range(300):
        state = dice.choice(states)
        catalog = dice.choice(CATALOGS)
        resident = frozenset(dice.sample(sorted(catalog.versions) or VERSIONS, dice.randrange(4)))
        state.update(replace(state.engine, ready=dice.random() < 0.8, resident=resident, catalog=catalog))
        if dice.random() < 0.1:
            engines.set_states(dice.sample(states, dice.randrange(1, 5)))
        version, members = dice.choice(["", *VERSIONS]), engines.states
        holding = {state.engine.name for state in members if state.engine.serves("tiny", version)}
        able = {s.engine.name for s in members if s.engine.ready and s.engine.can_load(version)}
        model = engines._models["tiny"]
        assert {target.engine.name for target in model.serving(version)} == holding
        assert {target.engine.name for target in model.loading(version)} == able
        assert model.knows(version) == any(state.engine.knows(version) for state in members)
        expected = {v for state in members for v in state.engine.resident if state.engine.catalog is EMPTY}
        assert model.versions() == expected.union(*(state.engine.catalog.versions for state in members))


def test_a_report_changes_only_the_lookups_of_versions_that_it_changes() -> None:
    catalog = AdapterCatalog(frozenset(VERSIONS))
    states = [EngineState(Engine(name, "tiny", ready=True, resident=frozenset(VERSIONS[:2]))) for name in "ab"]
    for state in states:
        state.update(replace(state.engine, catalog=catalog))
    engines = Engines(states)
    model = engines._models["tiny"]
    kept, base = model.serving(VERSIONS[0]), model.serving("")
    states[0].update(replace(states[0].engine, resident=frozenset(VERSIONS[:1])))
    assert model.serving(VERSIONS[0]) is kept
    assert model.serving("") is base
    assert [target.engine.name for target in model.serving(VERSIONS[1])] == ["b"]


def test_names_that_no_engine_knows_displace_no_lookup() -> None:
    found = lookups(EngineState(Engine("a", "tiny", ready=True, resident=frozenset(VERSIONS))))
    for version in VERSIONS:
        assert found.serving(version)
    for number in range(1000):
        assert not found.serving(f"made-up-{number}")
    assert len(found) == len(VERSIONS)


def test_the_least_recently_used_lookups_are_dropped() -> None:
    found = lookups(EngineState(Engine("a", "tiny", ready=True, resident=frozenset(VERSIONS))), max_lookups=2)
    first = found.serving(VERSIONS[0])
    for version in (VERSIONS[1], VERSIONS[0], VERSIONS[2]):
        found.serving(version)
    assert len(found) == 2
    assert found.serving(VERSIONS[0]) is first


def test_engines_of_an_old_configuration_are_not_kept_by_the_engines_state() -> None:
    state = EngineState(Engine("a", "tiny", ready=True))
    old, new = Engines([state]), Engines([state])
    assert len(state.observers) == 2
    del old
    assert list(state.observers) == [new]
