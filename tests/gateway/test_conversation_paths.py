"""The router keeps a conversation's path, version and random choices. It leaves the path if that saves money, or if it
has to."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pointsman_gateway.config.field_types import PolicyConfig
from pointsman_gateway.config.tasks_file import TaskConfig
from pointsman_gateway.conversations.price import Change, ConversationState, PathPrices, change_of, to_text
from pointsman_gateway.domain import Alias, Decision, Path, PathEvidence, Request, ResolvedAdapter
from pointsman_gateway.domain.conversation import ConversationStep, KeptPath, Step
from pointsman_gateway.engines.catalog import AdapterCatalog
from pointsman_gateway.engines.engine_state import Engine
from pointsman_gateway.engines.engines import Engines
from pointsman_gateway.routing.path_state import PinnedVersion, resolve_adapter
from pointsman_gateway.routing.predicted import encode_weights
from pointsman_gateway.routing.router import Router

from tests.gateway.doubles.adapters import NoAdapters
from tests.gateway.doubles.conversations import labels, request

GOOD, POOR, UNKNOWN = PathEvidence(100, 1.0, 100), PathEvidence(100, 0.0, 100), PathEvidence()
TERMS = {"paths": ["small", "large"], "quality_floor": 0.6, "exploration_rate": 0.0, "min_samples": 5}
PATHS = {name: Path(name, "tiny") for name in ("small", "large", "spare", "default")}
ASKED = request("user", "assistant", "user")


class Around:
    """Implements the router's dependencies with values that a test sets."""

    def __init__(self) -> None:
        self.evidence = {"small": GOOD, "large": GOOD}
        self.costs = {"small": 1.0, "large": 2.0}
        self.away: dict[str, str] = {}
        self.changes: Change | None = Change(gain_usd=0.004, price_usd=0.031)

    def of(self, task: str, path: Path) -> PathEvidence:
        evidence = self.evidence.get(path.name, UNKNOWN)
        return replace(evidence, mean_cost_usd=self.costs.get(path.name, 1.0))

    def why_not(self, path: Path) -> str | None:
        return self.away.get(path.name)

    def path_of(self, model: str) -> Path | None:
        return None

    def names(self) -> Sequence[str]:
        return ()

    def usd(self, path: Path, request: Request, *, is_embedded: bool = False) -> float:
        return self.costs.get(path.name, 1.0)

    def change(self, kept: Path, other: Path, request: Request, step: ConversationStep) -> Change | None:
        return self.changes


@pytest.fixture
def around() -> Around:
    return Around()


def task(policy: Mapping[str, Any]) -> TaskConfig:
    return TaskConfig(examples="x", policy=PolicyConfig.model_validate(policy), fallback=("spare",))


def decide(
    around: Around, step: Step = Step.TURN, kept: str = "large", policy: Mapping[str, Any] | None = None, **more: Any
) -> Decision:
    asked, of_task = more.pop("asked", ASKED), more.pop("task", "t")
    tasks = {"t": task(policy or {"best_value": TERMS}), "u": task({"fixed": "small"})}
    router = Router(
        PATHS,
        tasks,
        "default",
        availability=around,
        named=around,
        expected_cost=around,
        evidence=around,
        adapters=NoAdapters(),
        change_prices=around,
    )
    return router.decide(asked, labels(of_task), ConversationStep("id", step, KeptPath(kept, "t", 0.0), **more))


def found(decision: Decision) -> tuple[str, str, tuple[str, ...]]:
    return decision.path.name, decision.reason, decision.notes


# -- tool loops


@pytest.mark.parametrize(
    "policy",
    [
        {"best_value": TERMS},
        {"split": {"small": 1, "large": 1e-12}},
        {"fixed": "small"},
        {"escalate": {"paths": ["small", "large"]}},
    ],
)
def test_no_policy_changes_the_path_of_a_tool_loop(around: Around, policy: Mapping[str, Any]) -> None:
    around.evidence["large"] = POOR
    around.changes = Change(gain_usd=1.0, price_usd=0.0)
    decision = decide(around, Step.TOOL_LOOP, policy=policy)
    note = "stayed on large: results of tools that it called follow"
    assert found(decision) == ("large", "conversation", (note,))
    assert decision.considered[0].reason == "the conversation keeps it"


def test_a_tool_loop_stays_if_the_classifier_finds_another_task(around: Around) -> None:
    assert decide(around, Step.TOOL_LOOP, task="u").path.name == "large"
    assert decide(around, Step.TOOL_LOOP, task="unknown").path.name == "large"


def test_a_tool_loop_leaves_a_path_that_is_unavailable_and_says_so(around: Around) -> None:
    around.away["large"] = "breaker open"
    decision = decide(around, Step.TOOL_LOOP)
    assert found(decision) == ("small", "availability", ("left large: breaker open",))


def test_a_tool_loop_leaves_a_path_that_the_configuration_has_no_more(around: Around) -> None:
    decision = decide(around, Step.TOOL_LOOP, kept="gone")
    assert found(decision)[0] == "small"
    assert decision.notes == ("left gone: the configuration does not have it any more",)


# -- between turns


def test_a_conversation_stays_while_a_change_does_not_pay(around: Around) -> None:
    note = "stayed on large: a change would cost $0.0310 for $0.0040"
    assert found(decide(around)) == ("large", "conversation", (note,))


def test_a_conversation_changes_once_that_pays(around: Around) -> None:
    around.changes = Change(gain_usd=0.031, price_usd=0.004)
    assert found(decide(around)) == (
        "small", "policy:best_value", ("left large: the change costs $0.0040 for $0.0310",)
    )  # fmt: skip


def test_a_conversation_leaves_a_path_that_is_not_good_enough_whatever_it_costs(around: Around) -> None:
    around.evidence["large"] = POOR
    path, reason, (note,) = found(decide(around))
    assert (path, reason) == ("small", "policy:best_value")
    assert note.startswith("left large: quality 0.00")


def test_a_sticky_conversation_stays_whatever_changes_as_long_as_it_can(around: Around) -> None:
    around.evidence["large"] = POOR
    assert found(decide(around, mode="sticky")) == ("large", "conversation", ("stayed on large",))
    around.away["large"] = "breaker open"
    assert found(decide(around, mode="sticky"))[::2] == ("small", ("left large: breaker open",))


def test_another_task_is_decided_anew(around: Around) -> None:
    assert found(decide(around, task="u")) == ("small", "policy:fixed", ())


def test_after_a_fallback_a_fixed_policy_returns_to_its_path(around: Around) -> None:
    decision = decide(around, kept="spare", policy={"fixed": "small"})
    assert found(decision) == ("small", "policy:fixed", ("left spare: the policy chooses small",))


def test_without_a_price_a_conversation_stays(around: Around) -> None:
    around.changes = None
    assert found(decide(around))[::2] == ("large", ("stayed on large: the price of a change is unknown",))


def test_exploration_takes_no_conversation_from_its_path(around: Around) -> None:
    around.evidence["small"] = UNKNOWN
    around.changes = Change(gain_usd=1.0, price_usd=0.0)
    policy = {"best_value": {**TERMS, "exploration_rate": 0.5}}
    paths = {decide(around, policy=policy, key=f"conversation {number}").path.name for number in range(20)}
    assert paths == {"large"}


def test_the_conversation_draws_the_same_in_every_request(around: Around) -> None:
    policy = {"split": {"small": 1, "large": 1}}
    chosen = [
        {decide(around, Step.FIRST, "", policy, key=f"conversation {number}").path.name for _ in range(5)}
        for number in range(20)
    ]
    assert all(len(paths) == 1 for paths in chosen)
    assert {path for paths in chosen for path in paths} == {"small", "large"}


def test_a_user_draws_before_a_conversation(around: Around) -> None:
    policy, asked = {"split": {"small": 1, "large": 1}}, replace(ASKED, user="ann")
    chosen = {
        decide(around, Step.FIRST, "", policy, key=f"conversation {number}", asked=asked).path.name
        for number in range(20)
    }
    assert len(chosen) == 1


def test_the_decision_keeps_the_key_by_which_it_drew(around: Around) -> None:
    assert decide(around, key="dec_first").random_key == "dec_first"


# -- adapter versions

V1, V2, V3 = "triage@111111111111", "triage@222222222222", "triage@333333333333"
PROD = "triage@prod"
ADAPTED = Path("triage", "tiny", adapter=PROD)


def resolved(alias: Alias, pinned: PinnedVersion, *resident: str) -> ResolvedAdapter:
    held = frozenset(resident)
    engine = Engine("one", "tiny", ready=True, resident=held, catalog=AdapterCatalog(held, {PROD: alias}))
    adapter = resolve_adapter(ADAPTED, "key", Engines([engine]), pinned).resolved_adapter
    assert adapter is not None
    return adapter


def test_a_conversation_finishes_on_its_version_while_that_is_loaded() -> None:
    promoted = Alias(PROD, V2, 2, previous=V1)
    stays = resolved(promoted, PinnedVersion(V1), V1, V2)
    assert (stays.version, stays.notes) == (V1, (f"{PROD}: the conversation stays on {V1}, with which it began",))
    leaves = resolved(promoted, PinnedVersion(V1), V2)
    assert leaves.version == V2
    assert leaves.notes == (f"{PROD}: the conversation leaves {V1}, which is on no engine now",)


def test_a_version_that_was_rolled_back_is_left_at_once() -> None:
    began = resolved(Alias(PROD, V2, 2, previous=V1), PinnedVersion(""), V1, V2)
    rolled_back = Alias(PROD, V1, 3, previous=V2)
    leaves = resolved(rolled_back, PinnedVersion(began.version, began.replaces), V1, V2)
    assert (leaves.version, leaves.notes) == (V1, (f"{PROD}: the conversation leaves {V2}, which was rolled back",))


def test_a_canary_that_was_ended_is_left_at_once_and_a_promoted_one_is_kept() -> None:
    began = resolved(Alias(PROD, V1, 2, V2, 1.0), PinnedVersion(""), V1, V2)
    pinned = PinnedVersion(began.version, began.replaces)
    assert pinned == PinnedVersion(V2, V1)
    assert resolved(Alias(PROD, V1, 3), pinned, V1, V2).version == V1
    assert resolved(Alias(PROD, V1, 3, V2, 0.0), pinned, V1, V2).version == V2
    assert resolved(Alias(PROD, V3, 4, previous=V2), pinned, V1, V2, V3).version == V2


def test_a_conversation_keeps_its_side_of_a_canary_that_grows() -> None:
    growing = Alias(PROD, V1, 3, V2, 1.0)
    assert resolved(growing, PinnedVersion(V1), V1, V2).version == V1


def test_versions_are_pinned_unless_the_task_says_otherwise_and_always_in_a_tool_loop() -> None:
    class Adapters(NoAdapters):
        def alias_of(self, path: Path) -> Alias | None:
            return Alias(PROD, V2, 2, previous=V1)

        def holds(self, model: str, version: str) -> bool:
            return True

    around = Around()
    router = Router(
        {"triage": ADAPTED},
        {"t": TaskConfig(examples="x", policy=PolicyConfig.model_validate({"fixed": "triage"}))},
        "triage",
        availability=around,
        named=around,
        expected_cost=around,
        evidence=around,
        adapters=Adapters(),
    )
    versions = {}
    for pins, step in ((True, Step.TURN), (False, Step.TURN), (False, Step.TOOL_LOOP)):
        kept = ConversationStep("id", step, KeptPath("triage", "t", 0.0, version=V1), pins_version=pins)
        adapter = router.decide(ASKED, labels(), kept).path.resolved_adapter
        versions[pins, step] = adapter and adapter.version
    assert versions == {(True, Step.TURN): V1, (False, Step.TURN): V2, (False, Step.TOOL_LOOP): V1}


@pytest.mark.parametrize(
    ("kept", "saved", "usd_per_wrong_answer", "path", "note"),
    [
        ("small", 0.004, 4.0, "large", "left small: the change costs $0.0310 for $2.0040"),
        ("large", 0.3, 1.0, "large", "stayed on large: a change would cost $0.0310 for $0.0000"),
        ("large", 1.0, 1.9, "small", "left large: the change costs $0.0310 for $0.0500"),
    ],
)
def test_a_conversation_leaves_a_predicted_path_if_better_answers_are_worth_it(
    around: Around, kept: str, saved: float, usd_per_wrong_answer: float, path: str, note: str
) -> None:
    weights = encode_weights(np.zeros(2))
    paths = {name: {"mean": mean, "bias": 0, "weights": weights} for name, mean in (("small", 0.4), ("large", 0.9))}
    terms = {"encoder": "tiny", "usd_per_wrong_answer": usd_per_wrong_answer, "paths": paths}
    around.changes = Change(gain_usd=saved, price_usd=0.031)
    found = decide(around, kept=kept, policy={"predicted": terms})
    assert (found.path.name, found.notes) == (path, (note,))


# -- prices

LARGE = PathPrices(prompt=3e-6, cached=0.3e-6, reading=2.7e-6, answer=0.003)
SMALL = PathPrices(prompt=1e-6, cached=0.1e-6, reading=0.9e-6, answer=0.001)


LATE = ConversationState(10_000, new_tokens=1000, requests_left=5, idle_seconds=10)


def test_a_change_pays_if_the_gain_exceeds_the_price_of_reading_the_context_again() -> None:
    change = change_of(LARGE, SMALL, LATE)
    new, old = 1000, 9000
    saved = old * 0.2e-6 + new * 2e-6 + 0.002
    assert change.gain_usd == pytest.approx(saved * 5)
    assert change.price_usd == pytest.approx(old * 0.9e-6)
    assert change.pays
    assert not change_of(LARGE, SMALL, replace(LATE, requests_left=1)).pays
    assert not change_of(SMALL, LARGE, replace(LATE, requests_left=50)).pays


def test_after_a_long_pause_the_kept_path_reads_the_context_again_too() -> None:
    warm = change_of(LARGE, SMALL, replace(LATE, requests_left=1))
    cold = change_of(LARGE, SMALL, replace(LATE, requests_left=1, idle_seconds=3600))
    assert (warm.pays, cold.pays, cold.price_usd) == (False, True, 0.0)


def test_a_paths_own_prompt_is_read_too() -> None:
    longer = replace(SMALL, added_tokens=5000)
    before, after = (change_of(LARGE, other, LATE) for other in (SMALL, longer))
    assert after.price_usd - before.price_usd == pytest.approx(5000 * 0.9e-6)


def test_a_path_that_has_answered_before_reads_only_what_is_new_since_then() -> None:
    returns = change_of(LARGE, SMALL, replace(LATE, known_tokens=8000))
    assert returns.price_usd == pytest.approx(1000 * 0.9e-6)


def test_the_path_that_a_conversation_has_left_is_known_for_a_while() -> None:
    kept = KeptPath("large", "t", 100.0, 4000).left_for("small")
    step = ConversationStep("id", Step.TURN, KeptPath("small", "t", 200.0, 5000, earlier=kept), idle_seconds=50.0)
    assert step.known_characters("large", cache_seconds=300) == 4000
    assert step.known_characters("large", cache_seconds=149) == 0
    assert step.known_characters("spare", cache_seconds=300) == 0
    assert KeptPath("small", "t", 200.0, 5000, earlier=kept).left_for("small") == kept


@pytest.mark.parametrize(
    ("usd", "text"),
    [(0.031, "$0.0310"), (12.5, "$12.5000"), (0.0, "$0.0000"), (0.0000312, "$0.000031")],
)
def test_dollars_have_two_significant_digits(usd: float, text: str) -> None:
    assert to_text(usd) == text
