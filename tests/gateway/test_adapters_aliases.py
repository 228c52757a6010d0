"""Which version an adapter's alias means: the states of all lora-servers form one table, and a canary gets its
share."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from pointsman.v1 import lora_server_pb2 as pb
from pointsman_gateway.config.field_types import PolicyConfig
from pointsman_gateway.domain import Alias, Path, ResolvedAdapter
from pointsman_gateway.engines.aliases import ALIAS_TTL_SECONDS, Aliases
from pointsman_gateway.engines.catalog import EMPTY, AdapterCatalog
from pointsman_gateway.engines.engine_state import Engine
from pointsman_gateway.engines.engines import Engines
from pointsman_gateway.routing.path_state import resolve_adapter

from tests.gateway.doubles.clocks import Clock
from tests.gateway.doubles.extensions import Situation
from tests.gateway.doubles.gateway import Gateway, Neighbours
from tests.gateway.doubles.lora_server import READY
from tests.gateway.doubles.waiting import until

OLD, NEW = "triage@3f9a1c0b77de", "triage@0123456789ab"
PATH = Path("triage", "tiny", adapter="triage@prod")
USERS = [f"user-{number}" for number in range(10_000)]


def alias(version: str, revision: int, canary: str = "", weight: float = 0.0) -> Alias:
    return Alias("triage@prod", version, revision, canary, weight)


def engine(name: str, reported: Alias, *resident: str, loadable: Sequence[str] = ()) -> Engine:
    catalog = AdapterCatalog(frozenset((*resident, *loadable)), {reported.alias: reported})
    return Engine(name, "tiny", f"http://{name}", True, frozenset(resident), catalog, "up")


def says(*received: Alias) -> AdapterCatalog:
    return AdapterCatalog(aliases={alias.alias: alias for alias in received})


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engines() -> Engines:
    """Returns two engines that hold both versions, according to their lora-servers."""
    return Engines([engine(name, alias(OLD, 1), OLD, NEW) for name in "ab"])


def test_the_first_lora_server_to_report_a_change_applies_it_to_all_engines(engines: Engines) -> None:
    engines.update(engine("a", alias(NEW, 2), OLD, NEW))
    assert [(target.engine.name, target.model) for target in engines.targets(PATH)] == [("a", NEW), ("b", NEW)]


def test_a_late_lora_server_does_not_undo_a_change(engines: Engines) -> None:
    engines.update(engine("a", alias(NEW, 2), OLD, NEW))
    engines.update(replace(engine("b", alias(OLD, 1), OLD, NEW), detail="still"))
    assert engines.version_of(PATH) == NEW
    engines.update(engine("b", alias(NEW, 2), OLD, NEW))
    assert engines.version_of(PATH) == NEW


def test_a_restarting_lora_server_does_not_undo_a_change(engines: Engines) -> None:
    engines.update(engine("a", alias(NEW, 2), OLD, NEW))
    engines.update(Engine("a", "tiny", detail="loading weights"))
    assert engines.version_of(PATH) == NEW
    assert [target.engine.name for target in engines.targets(PATH)] == ["b"]


def test_only_engines_that_hold_the_exact_version_are_used(engines: Engines) -> None:
    engines.update(engine("a", alias(NEW, 2), NEW))
    engines.update(engine("b", alias(OLD, 1), OLD))
    assert [target.engine.name for target in engines.targets(PATH)] == ["a"]


def test_a_request_keeps_its_version_while_the_alias_changes(engines: Engines) -> None:
    before = resolve_adapter(PATH, "someone", engines)
    engines.update(engine("a", alias(NEW, 2), OLD, NEW))
    assert {target.model for target in engines.targets(before)} == {OLD}
    assert engines.version_of(before) == OLD
    assert {target.model for target in engines.targets(resolve_adapter(PATH, "someone", engines))} == {NEW}


def test_a_reset_registry_is_accepted_after_a_minute(clock: Clock) -> None:
    aliases = Aliases(clock)
    aliases.update("a", "tiny", says(alias(OLD, 7)))
    aliases.update("a", "tiny", says(alias(NEW, 1)))
    assert aliases.get("tiny", "triage@prod") == alias(OLD, 7)
    clock.passes(ALIAS_TTL_SECONDS - 1)
    aliases.update("a", "tiny", says(alias(NEW, 1)))
    assert aliases.get("tiny", "triage@prod") == alias(OLD, 7)
    clock.passes(1)
    aliases.update("a", "tiny", says(alias(NEW, 1)))
    assert aliases.get("tiny", "triage@prod") == alias(NEW, 1)


def test_an_alias_reported_again_within_a_minute_is_kept(clock: Clock) -> None:
    aliases = Aliases(clock)
    for report in (says(alias(NEW, 2)), EMPTY, says(alias(NEW, 2)), EMPTY):
        clock.passes(ALIAS_TTL_SECONDS - 1)
        aliases.update("a", "tiny", report)
    assert aliases.get("tiny", "triage@prod") == alias(NEW, 2)


def test_an_alias_that_is_not_reported_expires_after_a_minute(clock: Clock) -> None:
    aliases = Aliases(clock)
    aliases.update("a", "tiny", says(alias(OLD, 1)))
    aliases.forget("a")
    assert aliases.of("tiny") == [alias(OLD, 1)]
    clock.passes(ALIAS_TTL_SECONDS)
    aliases.update("b", "tiny", EMPTY)
    assert aliases.of("tiny") == []


def test_the_same_name_of_another_base_model_is_another_alias() -> None:
    aliases = Aliases()
    aliases.update("a", "tiny", says(alias(OLD, 1)))
    aliases.update("b", "huge", says(alias(NEW, 9)))
    assert aliases.get("tiny", "triage@prod") == alias(OLD, 1)
    assert aliases.get("huge", "triage@prod") == alias(NEW, 9)


# -- canaries


def with_canary(weight: float, *resident: str) -> Engines:
    return Engines([engine("a", alias(OLD, 3, NEW, weight), *(resident or (OLD, NEW)))])


def drawn(weight: float, users: Sequence[str] = USERS) -> set[str]:
    """Returns the users whose requests go to the canary."""
    engines = with_canary(weight)
    return {user for user in users if engines.version_of(resolve_adapter(PATH, user, engines)) == NEW}


def test_a_canary_answers_its_share_of_the_users() -> None:
    assert len(drawn(0.05)) == pytest.approx(500, abs=87)  # four standard deviations
    assert drawn(0.0) == set()
    assert len(drawn(1.0)) == len(USERS)


def test_a_canary_that_grows_keeps_its_users() -> None:
    assert drawn(0.05) < drawn(0.5)


def test_a_user_always_gets_the_same_version() -> None:
    engines = with_canary(0.5)
    for user in USERS[:50]:
        assert len({engines.version_of(resolve_adapter(PATH, user, engines)) for _ in range(5)}) == 1


def test_canary_assignment_is_independent_of_split_assignment() -> None:
    split = PolicyConfig.model_validate({"split": {"small": 5, "large": 95}}).build()
    few = [user for user in USERS if split.plan(Situation(user=user)).paths == ("small",)]
    assert len(few) == pytest.approx(500, abs=87)
    assert len(drawn(0.5, few)) / len(few) == pytest.approx(0.5, abs=0.09)


def test_the_decision_reports_the_canary() -> None:
    aim = resolve_adapter(PATH, "someone", with_canary(1.0)).resolved_adapter
    assert aim == ResolvedAdapter(NEW, 3, has_canary=True, notes=(f"triage@prod: canary 100 %, {NEW}",), replaces=OLD)


def test_if_no_engine_holds_the_canary_the_stable_version_answers_with_a_note() -> None:
    aim = resolve_adapter(PATH, "someone", with_canary(1.0, OLD)).resolved_adapter
    text = f"triage@prod: canary 100 %, {NEW}, is on no engine; {OLD} answers"
    assert aim == ResolvedAdapter(OLD, 3, has_canary=True, notes=(text,))


def test_a_named_version_bypasses_the_canary() -> None:
    aim = resolve_adapter(replace(PATH, adapter=OLD), "someone", with_canary(1.0)).resolved_adapter
    assert aim == ResolvedAdapter(OLD)


def test_a_path_without_adapter_has_no_resolved_adapter() -> None:
    plain = Path("plain", "tiny")
    assert resolve_adapter(plain, "someone", with_canary(1.0)) is plain


async def test_the_version_of_a_path_is_exported_and_follows_its_alias(
    gateway: Gateway, neighbours: Neighbours
) -> None:
    def exported(version: str) -> float:
        return gateway.metric("pointsman_path_adapter_info", path="triage_adapter", adapter=version)

    assert (exported(OLD), exported(NEW)) == (1, 0)
    moved = pb.Alias(alias="triage@prod", version=NEW, revision=2)
    url = neighbours.engine.url
    await neighbours.lora_server.say(READY, url=url, resident=[OLD, NEW], aliases={"triage@prod": moved})
    await until(lambda: (exported(OLD), exported(NEW)) == (0, 1))
