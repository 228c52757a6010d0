"""The benchmark of several engines reads the right engines: those whose lora-servers report the same share, whatever
adapters each holds."""

from pointsman_gateway.domain import Path

from benchmarks.fleet import BASE, Fleet, move, version


async def test_engines_that_report_one_registry_share_it_also_after_an_alias_has_moved() -> None:
    fleet = Fleet(3, adapters=700, held=4)
    for engine in range(3):
        assert len(fleet.store(engine, fleet.complete(engine))) > 5  # steps
    (before,) = {state.engine.catalog for state in fleet.states}
    assert (len(before.versions), len(before.aliases), len(before.training_seconds)) == (700, 700, 700)
    for engine in range(3):
        fleet.store(engine, move(5))
    (after,) = {state.engine.catalog for state in fleet.states}
    assert after is not before
    assert fleet.aliases.of("llama-70b").count(after.aliases["adapter-00005@prod"]) == 1
    holders = fleet.engines.targets(Path("adapted", "llama-70b", adapter=version(5)))
    assert [target.engine.name for target in holders] == ["fleet/1"]
    assert len(fleet.engines.targets(BASE)) == 3
