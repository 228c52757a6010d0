"""Invariants of the registry under arbitrary sequences of calls, with a real Valkey."""

import secrets
from collections import Counter
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pointsman_lora_server.domain import AdapterVersion, Canary, Change, DesiredState, Phase, Placement
from pointsman_lora_server.registry import AdapterRegistry
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
        st.tuples(st.just("add_version"), versions, st.sampled_from(["", "prod"]), st.booleans(), st.just("ann")),
        st.tuples(st.just("set_phase"), names, st.sampled_from([Phase.VALIDATING, Phase.READY, Phase.FAILED])),
        st.tuples(st.just("set_phase"), names, st.just(Phase.READY)),
        st.tuples(st.just("move_alias"), aliases, names, expected),
        st.tuples(st.just("set_canary"), aliases, canaries, expected),
        st.tuples(st.just("roll_back"), aliases, expected, st.just("ann"), st.just("why"), revisions),
        st.tuples(st.just("set_pinned"), names, st.booleans(), st.just("ann")),
        st.tuples(st.just("retire"), names, st.just("ann")),
        st.tuples(st.just("delete"), names, st.just("ann")),
        st.tuples(st.just("clear_alias_request"), names),
        st.tuples(
            st.just("set_placement"),
            st.sampled_from(["triage", "other"]),
            placements,
            st.none() | placements,
            st.just(""),
        ),
        st.tuples(st.just("announce_target"), names, st.just(60.0)),
    ),
    max_size=40,
)
PATIENT = 5.0  # timeout of a call in seconds, for a busy machine


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
async def test_the_state_is_consistent_with_its_history(valkey: Any, steps: list[tuple[Any, ...]]) -> None:
    async with open_redis(valkey.url, lambda up: None, PATIENT) as redis:
        base = secrets.token_hex(8)
        registry, reader = AdapterRegistry(redis, base), AdapterRegistry(redis, base)
        for name, *arguments in [("add_version", version, "", False, "ann") for version in VERSIONS] + steps:
            before = await reader.read()
            entries = await redis.client.xlen(f"{{pointsman:adapters:{base}}}:changes")
            try:
                await getattr(registry, name)(*arguments)
            except (InvalidArgument, NotFound, FailedPrecondition):
                assert await AdapterRegistry(redis, base).read() == before, "what is refused changes nothing"
            after = await reader.read()
            assert after == await AdapterRegistry(redis, base).read(), "reading only the changes gives the same state"
            changed = await redis.client.xlen(f"{{pointsman:adapters:{base}}}:changes") - entries
            assert changed == (after != before), "one entry for each change, and none without"
            _check(after)
        _check_history(await registry.history("", 10_000), after)


def _check(state: DesiredState) -> None:
    assert state.versions.keys() == state.phases.keys()
    assert state.pins <= state.versions.keys()
    assert state.alias_targets <= state.versions.keys(), "nothing that is aimed at was deleted"
    assert not any(state.phases[version].phase is Phase.RETIRED for version in state.alias_targets | state.pins)
    assert not any(alias.canary and alias.canary.version == alias.version for alias in state.aliases)


def _check_history(history: list[Change], state: DesiredState) -> None:
    """Replays the history from the oldest change; the result must equal the state."""
    received: dict[str, str] = {}
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
        assert change.before == received.get(change.subject, "")
        received[change.subject] = change.after
        if not any(received.get(name) for name in NAMES):
            placed = "all"  # removed with the adapter's last version
        if change.after in ("retired", ""):
            pinned.discard(change.subject)
    phases = {name: standing.phase.value for name, standing in state.phases.items()}
    assert {name: after for name, after in received.items() if name in NAMES and after} == phases
    assert pinned == state.pins
    assert str(state.placement_of("triage")) == placed
    assert revisions == {alias.alias: alias.revision for alias in state.aliases}
    for alias in state.aliases:
        canary = f", {alias.canary.version} at {alias.canary.weight}" if alias.canary else ""
        assert received[alias.alias] == alias.version + canary
