"""The router: the shares of a split, fallbacks, unavailable paths and named paths."""

from collections import Counter
from collections.abc import Mapping, Sequence

import pytest
from pointsman_gateway.config.field_types import PolicyConfig
from pointsman_gateway.config.tasks_file import TaskConfig
from pointsman_gateway.domain import AUTO, Considered, Decision, Labels, Message, Path, Request
from pointsman_gateway.routing.path_state import NoEvidence
from pointsman_gateway.routing.policy_preview import PolicyPreview
from pointsman_gateway.routing.router import Router
from pointsman_servicekit.errors import NotFound

from tests.gateway.doubles.adapters import NoAdapters
from tests.gateway.doubles.extensions import Situation


def policy(name: str, options: object) -> PolicyConfig:
    return PolicyConfig.model_validate({name: options})


SPLIT = policy("split", {"a": 9, "b": 1})


def side(split: PolicyConfig, user: str) -> str:
    (path,) = split.build().plan(Situation(user=user)).paths
    return str(path)


def test_a_split_sends_each_path_its_share() -> None:
    counts = Counter(side(SPLIT, f"user-{number}") for number in range(10_000))
    assert counts["b"] == pytest.approx(1000, abs=120)  # four standard deviations
    assert counts.total() == counts["a"] + counts["b"]


def test_a_split_keeps_a_user_on_one_side() -> None:
    for number in range(50):
        assert len({side(SPLIT, f"user-{number}") for _ in range(5)}) == 1


def test_a_growing_share_adds_users_and_moves_none_out() -> None:
    narrow, wide = policy("split", {"new": 1, "old": 9}), policy("split", {"new": 3, "old": 7})
    users = [f"user-{number}" for number in range(2000)]
    in_narrow, in_wide = ({user for user in users if side(p, user) == "new"} for p in (narrow, wide))
    assert in_narrow < in_wide


def test_weights_are_relative() -> None:
    for number in range(200):
        assert side(policy("split", {"a": 0.9, "b": 0.1}), str(number)) == side(SPLIT, str(number))


# -- the router


class Away:
    """Implements the router's `Availability`; gives a reason for each unavailable path."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        self._reasons = reasons

    def why_not(self, path: Path) -> str | None:
        return self._reasons.get(path.name)


class Named:
    def path_of(self, model: str) -> Path | None:
        return Path("tiny", "tiny") if model == "tiny" else None

    def names(self) -> Sequence[str]:
        return ["auto", "tiny", "path:a"]


class Free:
    def usd(self, path: Path, request: Request, *, is_embedded: bool = False) -> float:
        return 0.0


PATHS = {name: Path(name, "tiny") for name in ("a", "b", "spare", "default")}
TASKS = {
    "fixed": TaskConfig(examples="x", policy=policy("fixed", "a"), fallback=("b", "spare")),
    "split": TaskConfig(examples="x", policy=policy("split", {"a": 1, "b": 1}), fallback=("a", "b")),
    "uneven": TaskConfig(examples="x", policy=policy("split", {"a": 1, "b": 3}), fallback=("spare",)),
    "escalate": TaskConfig(examples="x", policy=policy("escalate", {"paths": ["b", "a"]})),
}


def router_of(away: Mapping[str, str]) -> Router:
    return Router(
        PATHS,
        TASKS,
        "default",
        availability=Away(away),
        named=Named(),
        expected_cost=Free(),
        evidence=NoEvidence(),
        adapters=NoAdapters(),
    )


def decide(task: str, model: str = AUTO, user: str = "", **away: str) -> Decision:
    router = router_of(away)
    labels = Labels(task, 0.8, (), abstained=task == "unknown", stage="classifier")
    return router.decide(Request(model, (Message("user", "x"),), user=user), labels)


def test_a_fixed_policy_has_the_fallbacks_and_then_the_default_as_alternatives() -> None:
    decision = decide("fixed")
    assert (decision.path.name, decision.reason) == ("a", "policy:fixed")
    assert [path.name for path in decision.alternatives] == ["b", "spare", "default"]


def test_a_split_falls_back_to_its_other_side() -> None:
    decision = decide("split", user="u")
    others = [path.name for path in decision.alternatives]
    assert decision.reason == "policy:split"
    assert sorted([decision.path.name, *others]) == ["a", "b", "default"]


def test_an_abstained_request_has_only_the_default_path() -> None:
    decision = decide("unknown")
    assert (decision.path.name, decision.reason, decision.alternatives) == ("default", "abstained", ())


def test_an_unavailable_path_is_skipped_with_its_reason() -> None:
    decision = decide("fixed", a="breaker open", spare="no adapter")
    assert (decision.path.name, decision.reason) == ("b", "availability")
    assert decision.considered == (
        Considered("a", "skipped", "breaker open"),
        Considered("b", "chosen", "policy:fixed"),
        Considered("spare", "skipped", "no adapter"),
        Considered("default", "fallback", "in reserve"),
    )


def test_if_no_path_is_available_the_first_is_tried_so_that_its_own_error_is_reported() -> None:
    decision = decide("fixed", a="x", b="x", spare="x", default="x")
    assert (decision.path.name, decision.alternatives) == ("a", ())
    assert {considered.outcome for considered in decision.considered} == {"skipped"}


@pytest.mark.parametrize(("model", "path"), [("path:spare", "spare"), ("tiny", "tiny")])
def test_a_forced_name_has_no_alternatives(model: str, path: str) -> None:
    decision = decide("unknown", model=model)
    assert (decision.path.name, decision.reason, decision.alternatives) == (path, "forced", ())


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(NotFound, match="unknown model 'path:c'; known: path:a, path:b, path:spare, path:default"):
        decide("unknown", model="path:c")
    with pytest.raises(NotFound, match="'gpt'; known: auto, tiny, path:NAME; GET /v1/models lists all"):
        decide("unknown", model="gpt")


def test_each_decision_has_an_id_of_its_own() -> None:
    assert len({decide("fixed").id for _ in range(100)}) == 100


def test_a_fallback_is_written_into_the_decision() -> None:
    decision = decide("fixed").with_fallback("engine_error").with_fallback("engine_error")
    assert (decision.path.name, decision.reason) == ("spare", "fallback")
    assert [path.name for path in decision.alternatives] == ["default"]
    assert {c.path: (c.outcome, c.reason) for c in decision.considered} == {
        "a": ("skipped", "engine_error"),
        "b": ("skipped", "engine_error"),
        "default": ("fallback", "in reserve"),
        "spare": ("fallback", "after b: engine_error"),
    }


# -- how tasks stand


def previews(**away: str) -> dict[str, PolicyPreview]:
    return {preview.task: preview for preview in router_of(away).previews()}


def test_a_preview_shows_the_path_that_a_request_would_take_now() -> None:
    by_name = {task: (preview.choice, preview.reason) for task, preview in previews().items()}
    assert by_name["fixed"] == ("a", "policy:fixed")
    assert by_name["uneven"] == ("b", "policy:split")  # the larger share
    assert by_name["escalate"] == ("b", "policy:escalate")
    for away in ({"a": "x"}, {"a": "x", "b": "x"}, {"b": "x"}, dict.fromkeys(PATHS, "x")):
        seen = previews(**away)
        for task in ("fixed", "escalate"):
            assert (seen[task].choice, seen[task].reason) == _decided(task, **away)
    assert previews(b="x")["uneven"].choice == "spare"


def _decided(task: str, **away: str) -> tuple[str, str]:
    decision = decide(task, **away)
    return decision.path.name, decision.reason


def test_a_preview_lists_every_path_that_a_request_may_take_with_its_role() -> None:
    seen = previews(spare="breaker open")["fixed"]
    assert [(p.path.name, p.role, p.unavailable) for p in seen.candidates] == [
        ("a", "policy", ""), ("b", "fallback", ""), ("spare", "fallback", "breaker open"), ("default", "default", "")
    ]  # fmt: skip
