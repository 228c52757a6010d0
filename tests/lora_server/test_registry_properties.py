"""What holds of the registry whatever is asked of it, in whatever order, in a real Valkey."""

import secrets
from collections import Counter
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pointsman_lora_server.domain import AdapterVersion, Canary, Change, DesiredState, Phase, Placement
from pointsman_lora_server.registry import Registry
from pointsman_servicekit.bounded_redis import open_redis
from pointsman_servicekit.errors import FailedPrecondition, InvalidArgument, NotFound

VERSIONS = [AdapterVersion("triage", digit * 64, "b", 2, ("q_proj",), 100, 1) for digit in "1234"]
NAMES = [version.version for version in VERSIONS]
ALIASES = ["triage@prod", "triage@beta"]

versions, names, aliases = st.sampled_from(VERSIONS), st.sampled_from(NAMES), st.sampled_from(ALIASES)
expected = st.just("") | names
canaries = st.none() | st.builds(Canary, names, st.sampled_from([0.1, 0.5]))
adapters = st.sampled_from(["triage", "unheard-of"])
placements = st.builds(Placement, st.none() | st.integers(0, 2))
revisions = st.none() | st.integers(0, 6)

steps = st.lists(
    st.one_of(
        st.tuples(st.just("record"), versions, st.sampled_from(["", "prod"]), st.booleans(), st.just("ann")),
        st.tuples(st.just("stand"), names, st.sampled_from([Phase.VALIDATING, Phase.READY, Phase.FAILED])),
        st.tuples(st.just("stand"), names, st.just(Phase.READY)),
        st.tuples(st.just("move"), aliases, names, expected),
        st.tuples(st.just("set_canary"), aliases, canaries, expected),
        st.tuples(st.just("rollback"), aliases, expected, st.just("ann"), st.just("why"), revisions),
        st.tuples(st.just("pin"), names, st.booleans(), st.just("ann")),
        st.tuples(st.just("retire"), names, st.just("ann")),
        st.tuples(st.just("delete"), names, st.just("ann")),
        st.tuples(st.just("settle_word"), names),
        st.tuples(
            st.just("place"), st.sampled_from(["triage", "other"]), placements, st.none() | placements, st.just("")
        ),
        st.tuples(st.just("announce"), names, st.just(60.0)),
    ),
    max_size=40,
)
PATIENT = 5.0  # seconds a call, on a busy machine


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
async def test_the_state_is_consistent_and_its_history_tells_it(valkey: Any, steps: list[tuple[Any, ...]]) -> None:
    async with open_redis(valkey.url, lambda up: None, PATIENT) as redis:
        base = secrets.token_hex(8)
        registry, reader = Registry(redis, base), Registry(redis, base)
        for name, *arguments in [("record", version, "", False, "ann") for version in VERSIONS] + steps:
            before = await reader.read()
            entries = await redis.client.xlen(f"{{pointsman:adapters:{base}}}:changes")
            try:
                await getattr(registry, name)(*arguments)
            except (InvalidArgument, NotFound, FailedPrecondition):
                assert await Registry(redis, base).read() == before, "what is refused changes nothing"
            after = await reader.read()
            changed = await redis.client.xlen(f"{{pointsman:adapters:{base}}}:changes") - entries
            assert changed == (after != before), "one entry for each change, and none without"
            _check(after)
        _check_history(await registry.history("", 10_000), after)


def _check(state: DesiredState) -> None:
    assert state.versions.keys() == state.standings.keys()
    assert state.pins <= state.versions.keys()
    assert state.aimed_at <= state.versions.keys(), "nothing that is aimed at was deleted"
    assert not any(state.standings[version].phase is Phase.RETIRED for version in state.aimed_at | state.pins)
    assert not any(alias.canary and alias.canary.version == alias.version for alias in state.aliases)


def _check_history(history: list[Change], state: DesiredState) -> None:
    """Told from the oldest on, it ends where the state is."""
    told: dict[str, str] = {}
    pinned: set[str] = set()
    placed = "all"
    revisions: Counter[str] = Counter()
    for change in reversed(history):
        if change.kind == "pin":
            (pinned.add if change.after else pinned.discard)(change.subject)
            continue
        if change.kind == "placement":
            assert (change.subject, change.before) == ("triage", placed)
            placed = change.after
            continue
        if change.subject in ALIASES:
            revisions[change.subject] += 1
        assert change.before == told.get(change.subject, "")
        told[change.subject] = change.after
        if not any(told.get(name) for name in NAMES):
            placed = "all"  # it went with the adapter's last version
        if change.after in ("retired", ""):
            pinned.discard(change.subject)
    phases = {name: standing.phase.value for name, standing in state.standings.items()}
    assert {name: after for name, after in told.items() if name in NAMES and after} == phases
    assert pinned == state.pins
    assert str(state.placement_of("triage")) == placed
    assert revisions == {alias.alias: alias.revision for alias in state.aliases}
    for alias in state.aliases:
        canary = f", {alias.canary.version} at {alias.canary.weight}" if alias.canary else ""
        assert told[alias.alias] == alias.version + canary
