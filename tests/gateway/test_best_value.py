"""The policy `best_value` chooses the cheapest path that is known to be good enough and fast enough."""

from collections import Counter
from collections.abc import Mapping, Sequence

import pytest
from pointsman_gateway.config.field_types import PolicyConfig
from pointsman_gateway.config.tasks_file import TaskConfig
from pointsman_gateway.domain import AUTO, Decision, Labels, Message, Path, PathEvidence, Request
from pointsman_gateway.extensions import Candidate, Plan
from pointsman_gateway.routing.best_value import BestValue, BestValueOptions
from pointsman_gateway.routing.router import Router
from pointsman_servicekit.confidence_sequences import lower_limit, upper_limit

from tests.gateway.doubles.adapters import NoAdapters
from tests.gateway.doubles.api_clients import ApiClient
from tests.gateway.doubles.config_folder import IN_TRIAGE
from tests.gateway.doubles.extensions import Situation

TERMS = BestValueOptions(paths=("cheap", "dear"), quality_floor=0.8, p95_seconds=2.0)
GOOD = PathEvidence(ratings=100, quality=0.95, answers=100, p95_seconds=0.5)
POOR = PathEvidence(ratings=200, quality=0.65, answers=100, p95_seconds=0.5)
UNDECIDED = PathEvidence(ratings=25, quality=0.86, answers=100, p95_seconds=0.5)
SLOW = PathEvidence(ratings=100, quality=0.95, answers=100, p95_seconds=4.2)
UNTRIED = PathEvidence(ratings=3, quality=1.0, answers=3, p95_seconds=9.0)
NO_TRIAL = 1.0
"""A position above every exploration rate, so that nothing is explored."""


def candidate(name: str, evidence: PathEvidence, cost_usd: float) -> Candidate:
    return Candidate(name, evidence, cost_usd)


def planned(
    *candidates: Candidate,
    policy: BestValue | None = None,
    terms: BestValueOptions = TERMS,
    away: Mapping[str, str] = {},
    where: float = NO_TRIAL,
) -> Plan:
    return (policy or BestValue(terms)).plan(Situation(candidates, away, where))


# -- the choice


def test_the_cheapest_good_and_fast_path_is_chosen_and_a_dearer_one_is_its_fallback() -> None:
    wanted = planned(candidate("dear", GOOD, 12.2e-6), candidate("cheap", GOOD, 3.3e-6))
    assert (wanted.paths, wanted.reason) == (("cheap", "dear"), "policy:best_value")
    assert wanted.explanations == {
        "cheap": "good enough (at least 0.86) at $0.0033 per 1,000",
        "dear": "good enough, but dearer: $0.0122 per 1,000 against $0.0033 per 1,000",
    }


@pytest.mark.parametrize(
    ("evidence", "why"),
    [
        (POOR, "quality 0.65, at most 0.75 of 200 ratings: under the floor 0.80"),
        (
            UNDECIDED,
            "quality 0.86, at least 0.60 of 25 ratings: not known to reach the floor 0.80, exploration rate 5 %",
        ),
        (SLOW, "p95 4.2 s: over 2.0 s"),
        (UNTRIED, "too few ratings (3 of 20): exploration rate 5 %"),
        (PathEvidence(), "too few ratings (0 of 20): exploration rate 5 %"),
    ],
)
def test_a_path_that_is_not_good_or_fast_or_known_is_skipped_however_cheap(evidence: PathEvidence, why: str) -> None:
    wanted = planned(candidate("cheap", evidence, 1e-6), candidate("dear", GOOD, 9e-6))
    assert wanted.paths == ("dear",)
    assert wanted.explanations["cheap"] == why


def test_a_mean_over_the_floor_is_not_enough_while_its_bound_is_under_it() -> None:
    few, many = (PathEvidence(ratings=rated, quality=0.86) for rated in (25, 500))
    assert planned(candidate("cheap", few, 1e-6), candidate("dear", GOOD, 9e-6)).paths[0] == "dear"
    assert planned(candidate("cheap", many, 1e-6), candidate("dear", GOOD, 9e-6)).paths[0] == "cheap"


def test_without_a_limit_no_path_is_too_slow() -> None:
    terms = BestValueOptions(paths=("cheap", "dear"), quality_floor=0.8)
    assert planned(candidate("cheap", SLOW, 1e-6), candidate("dear", GOOD, 9e-6), terms=terms).paths[0] == "cheap"


# -- evaluations

EVALUATED = PathEvidence(evaluated=300, score=0.95)


def test_evaluated_rows_count_as_ratings_up_to_a_limit_and_are_marked() -> None:
    wanted = planned(candidate("cheap", EVALUATED, 3.3e-6), candidate("dear", GOOD, 12.2e-6))
    assert wanted.paths == ("cheap", "dear")
    assert wanted.explanations["cheap"] == "good enough (at least 0.86, 100 from evaluations) at $0.0033 per 1,000"
    terms = TERMS.model_copy(update={"max_evaluation_ratings": 25})
    wanted = planned(candidate("cheap", EVALUATED, 1e-6), candidate("dear", GOOD, 9e-6), terms=terms)
    assert wanted.explanations["cheap"].startswith("quality 0.95, at least 0.73 of 25 ratings, 25 from evaluations:")


def test_ratings_of_traffic_outweigh_an_evaluation_in_time() -> None:
    poor = PathEvidence(ratings=300, quality=0.5, evaluated=300, score=1.0)
    wanted = planned(candidate("cheap", poor, 1e-6), candidate("dear", GOOD, 9e-6))
    assert wanted.explanations["cheap"] == (
        "quality 0.62, at most 0.70 of 400 ratings, 100 from evaluations: under the floor 0.80"
    )


def test_evaluations_do_not_count_if_the_policy_says_so() -> None:
    terms = TERMS.model_copy(update={"max_evaluation_ratings": 0})
    wanted = planned(candidate("cheap", EVALUATED, 1e-6), candidate("dear", GOOD, 9e-6), terms=terms)
    assert wanted.explanations["cheap"] == "too few ratings (0 of 20): exploration rate 5 %"


# -- nothing is good enough


def test_without_evidence_the_first_path_is_chosen() -> None:
    wanted = planned(candidate("first", PathEvidence(), 9e-6), candidate("second", UNTRIED, 1e-6))
    assert (wanted.paths, wanted.reason) == (("first",), "policy:none_good_enough")
    assert wanted.explanations["first"].startswith("none is known to be good enough yet; too few ratings (0 of 20)")


def test_if_none_is_good_enough_the_one_with_the_highest_bound_is_chosen() -> None:
    worse = PathEvidence(ratings=200, quality=0.5)
    wanted = planned(candidate("first", worse, 1e-6), candidate("second", POOR, 9e-6), candidate("third", SLOW, 1e-6))
    assert (wanted.paths, wanted.reason) == (("second",), "policy:none_good_enough")
    assert wanted.explanations["second"].startswith("none is good enough, this one comes nearest; quality 0.65")


def test_if_all_are_too_slow_one_is_chosen_nevertheless() -> None:
    assert planned(candidate("first", SLOW, 1e-6), candidate("second", SLOW, 1e-6)).paths == ("first",)


# -- exploration


def test_the_paths_without_evidence_share_the_exploration_rate_evenly() -> None:
    terms = BestValueOptions(paths=("a", "b", "c"), quality_floor=0.8, exploration_rate=0.1)
    candidates = [candidate("a", UNTRIED, 1e-6), candidate("b", GOOD, 9e-6), candidate("c", PathEvidence(), 1e-6)]
    taken = Counter(planned(*candidates, terms=terms, where=step / 1000).paths[0] for step in range(1000))
    assert taken == {"a": 50, "b": 900, "c": 50}


def test_the_chosen_path_is_not_explored() -> None:
    untried = [candidate(name, PathEvidence(), 1e-6) for name in ("first", "second")]
    assert {planned(*untried, where=step / 10_000).paths[0] for step in range(500)} == {"second"}


def test_an_explored_path_says_so_and_the_good_one_is_its_fallback() -> None:
    wanted = planned(candidate("cheap", UNTRIED, 1e-6), candidate("dear", GOOD, 9e-6), where=0.01)
    assert (wanted.paths, wanted.reason) == (("cheap", "dear"), "policy:trial")
    assert wanted.explanations["cheap"] == "on trial; too few ratings (3 of 20): exploration rate 5 %"


@pytest.mark.parametrize("evidence", [POOR, PathEvidence(ratings=3, answers=100, p95_seconds=4.2)])
def test_a_path_known_to_be_poor_or_slow_is_not_explored(evidence: PathEvidence) -> None:
    assert planned(candidate("cheap", evidence, 1e-6), candidate("dear", GOOD, 9e-6), where=0.0).paths == ("dear",)


def test_a_path_is_explored_until_its_ratings_show_on_which_side_of_the_floor_it_is() -> None:
    """Otherwise a path with a bad start would get no more ratings: 20 good ratings of 21 do not prove 0.80."""
    dear = candidate("dear", GOOD, 9e-6)
    tried = {}
    for rated, quality in ((21, 20 / 21), (200, 0.9), (200, 0.65)):
        plan = planned(candidate("cheap", PathEvidence(rated, quality), 1e-6), dear, where=0.01)
        tried[rated, quality] = (plan.paths[0], plan.reason)
    assert tried == {
        (21, 20 / 21): ("cheap", "policy:trial"),
        (200, 0.9): ("cheap", "policy:best_value"),
        (200, 0.65): ("dear", "policy:best_value"),
    }
    assert lower_limit(0.9, 200, 0.05) > 0.8 > upper_limit(0.65, 200, 0.05)


def test_a_conversation_need_not_leave_an_undecided_path_but_a_poor_one() -> None:
    wanted = planned(candidate("cheap", UNDECIDED, 1e-6), candidate("dear", GOOD, 9e-6), candidate("bad", POOR, 1e-6))
    assert wanted.as_good == {"cheap", "dear"}


def test_an_exploration_rate_of_0_explores_nothing() -> None:
    terms = BestValueOptions(paths=("cheap", "dear"), quality_floor=0.8, exploration_rate=0)
    assert planned(candidate("cheap", UNTRIED, 1e-6), candidate("dear", GOOD, 9e-6), terms=terms, where=0.0).paths == (
        "dear",
    )


# -- hysteresis


def test_a_path_takes_over_only_if_it_is_cheaper_by_the_hysteresis() -> None:
    policy = BestValue(TERMS)
    assert planned(candidate("a", GOOD, 10e-6), candidate("b", GOOD, 11e-6), policy=policy).paths[0] == "a"
    little = planned(candidate("a", GOOD, 10e-6), candidate("b", GOOD, 9.5e-6), policy=policy)
    assert little.paths == ("a", "b")
    assert little.explanations["b"] == (
        "good enough, but not cheaper by 10 %: $0.0095 per 1,000 against $0.0100 per 1,000"
    )
    assert planned(candidate("a", GOOD, 10e-6), candidate("b", GOOD, 8.9e-6), policy=policy).paths[0] == "b"


def test_costs_that_fluctuate_around_each_other_do_not_change_the_path() -> None:
    policy = BestValue(TERMS)
    swings = [(10e-6, 10.4e-6), (10.4e-6, 10e-6)] * 10
    taken = {planned(candidate("a", GOOD, a), candidate("b", GOOD, b), policy=policy).paths[0] for a, b in swings}
    assert taken == {"a"}


def test_an_incumbent_is_replaced_as_soon_as_it_is_not_good_or_fast() -> None:
    for fallen in (POOR, SLOW):
        policy = BestValue(TERMS)
        assert planned(candidate("a", GOOD, 1e-6), candidate("b", GOOD, 9e-6), policy=policy).paths[0] == "a"
        assert planned(candidate("a", fallen, 1e-6), candidate("b", GOOD, 9e-6), policy=policy).paths[0] == "b"


def test_a_path_at_the_floor_does_not_alternate_with_another() -> None:
    barely, hardly = (PathEvidence(ratings=400, quality=quality) for quality in (0.86, 0.85))
    assert lower_limit(0.86, 400, 0.05) > 0.8 > lower_limit(0.85, 400, 0.05)
    policy, taken = BestValue(TERMS), []
    for evidence in (barely, hardly, barely, hardly, barely, GOOD):
        wanted = planned(candidate("a", evidence, 1e-6), candidate("b", GOOD, 9e-6), policy=policy)
        taken.append(wanted.paths[0])
    assert taken == ["a", "b", "b", "b", "b", "a"]


def test_a_cheaper_path_near_the_limits_has_an_explanation() -> None:
    policy = BestValue(TERMS)
    near = PathEvidence(ratings=100, quality=0.95, answers=100, p95_seconds=1.9)
    planned(candidate("b", GOOD, 9e-6), policy=policy)
    wanted = planned(candidate("a", near, 1e-6), candidate("b", GOOD, 9e-6), policy=policy)
    assert wanted.paths == ("b", "a")
    assert wanted.explanations["a"].startswith("good enough and cheaper, but too near the limits to take over")


def test_an_unavailable_incumbent_stays_the_incumbent() -> None:
    policy = BestValue(TERMS)
    a, b = candidate("a", GOOD, 10e-6), candidate("b", GOOD, 10.5e-6)
    assert planned(a, b, policy=policy).paths[0] == "a"
    assert planned(a, b, policy=policy, away={"a": "not resident"}).paths == ("b",)
    assert planned(a, candidate("b", GOOD, 9.5e-6), policy=policy).paths[0] == "a"


def test_each_task_has_an_incumbent_of_its_own() -> None:
    class ByTask:
        def of(self, task: str, path: Path) -> PathEvidence:
            costs = {"one": {"cheap": 10e-6, "dear": 11e-6}, "other": {"cheap": 10e-6, "dear": 9.5e-6}}
            return with_cost(GOOD, costs[task][path.name])

    policy = PolicyConfig.model_validate({"best_value": TERMS})
    tasks = {name: TaskConfig(examples="x", policy=policy) for name in ("one", "other")}
    by = Router(
        PATHS,
        tasks,
        "default",
        availability=Around({}, {}),
        named=Around({}, {}),
        expected_cost=Around({}, {}),
        evidence=ByTask(),
        adapters=NoAdapters(),
    )
    labels = {name: Labels(name, 0.9, (), abstained=False, stage="static") for name in tasks}
    request = Request(AUTO, (Message("user", "x"),), user="someone")
    assert by.decide(request, labels["one"]).path.name == "cheap"
    assert by.decide(request, labels["other"]).path.name == "dear"


def test_if_none_is_good_enough_one_more_rating_does_not_change_the_path() -> None:
    policy = BestValue(TERMS)
    at, a_little_over = PathEvidence(ratings=100, quality=0.60), PathEvidence(ratings=100, quality=0.61)
    assert planned(candidate("a", at, 1e-6), candidate("b", POOR, 1e-6), policy=policy).paths == ("b",)
    policy = BestValue(TERMS)
    assert planned(candidate("a", at, 1e-6), policy=policy).paths == ("a",)
    assert planned(candidate("a", at, 1e-6), candidate("b", a_little_over, 1e-6), policy=policy).paths == ("a",)


# -- in the router


class Known:
    """Implements the router's `Evidence` with values that a test gives."""

    def __init__(self, **evidence: PathEvidence) -> None:
        self._evidence = evidence

    def learn(self, **evidence: PathEvidence) -> None:
        self._evidence |= evidence

    def of(self, task: str, path: Path) -> PathEvidence:
        assert task == "t"
        return self._evidence.get(path.name, PathEvidence())


class Around:
    """Implements the router's `Availability`, `NamedPaths` and `ExpectedCost` with given costs."""

    def __init__(self, away: Mapping[str, str], costs: Mapping[str, float]) -> None:
        self._away = away
        self._costs = costs

    def why_not(self, path: Path) -> str | None:
        return self._away.get(path.name)

    def path_of(self, model: str) -> Path | None:
        return None

    def names(self) -> Sequence[str]:
        return ()

    def usd(self, path: Path, request: Request, *, is_embedded: bool = False) -> float:
        return self._costs.get(path.name, 5e-6)


PATHS = {name: Path(name, "tiny") for name in ("cheap", "dear", "spare", "default")}


def router(known: Known, away: Mapping[str, str] = {}, costs: Mapping[str, float] = {}) -> Router:
    around = Around(away, costs)
    tasks = {
        "t": TaskConfig(examples="x", policy=PolicyConfig.model_validate({"best_value": TERMS}), fallback=("spare",))
    }
    return Router(
        PATHS,
        tasks,
        "default",
        availability=around,
        named=around,
        expected_cost=around,
        evidence=known,
        adapters=NoAdapters(),
    )


def decide(by: Router, user: str = "someone", text: str = "x") -> Decision:
    labels = Labels("t", 0.9, (), abstained=False, stage="static")
    return by.decide(Request(AUTO, (Message("user", text),), user=user), labels)


def rows(decision: Decision) -> dict[str, tuple[str, str]]:
    return {row.path: (row.outcome, row.reason) for row in decision.considered}


def with_cost(evidence: PathEvidence, usd: float) -> PathEvidence:
    return PathEvidence(evidence.ratings, evidence.quality, evidence.answers, evidence.p95_seconds, usd)


def test_every_path_is_in_the_decision_with_its_reason() -> None:
    decision = decide(router(Known(cheap=with_cost(POOR, 1e-6), dear=with_cost(GOOD, 9e-6))))
    assert (decision.path.name, decision.reason) == ("dear", "policy:best_value")
    assert rows(decision) == {
        "dear": ("chosen", "good enough (at least 0.86) at $0.0090 per 1,000"),
        "spare": ("fallback", "in reserve"),
        "default": ("fallback", "in reserve"),
        "cheap": ("skipped", "quality 0.65, at most 0.75 of 200 ratings: under the floor 0.80"),
    }
    assert [path.name for path in decision.alternatives] == ["spare", "default"]


def test_the_cost_of_past_answers_replaces_the_estimate() -> None:
    known = Known(cheap=with_cost(GOOD, 2e-6), dear=with_cost(GOOD, 9e-6))
    assert decide(router(known, costs={"cheap": 1.0, "dear": 0.0})).path.name == "cheap"
    only_rated = PathEvidence(ratings=100, quality=0.95)
    assert decide(router(Known(cheap=only_rated, dear=only_rated), costs={"cheap": 1.0})).path.name == "dear"


def test_an_unavailable_path_is_skipped_with_its_reason() -> None:
    known = Known(cheap=with_cost(GOOD, 1e-6), dear=with_cost(GOOD, 9e-6))
    decision = decide(router(known, away={"cheap": "adapter 'x' is not resident on any engine"}))
    assert (decision.path.name, decision.reason) == ("dear", "policy:best_value")
    assert rows(decision)["cheap"] == ("skipped", "adapter 'x' is not resident on any engine")


def test_if_all_of_the_policys_paths_are_unavailable_the_fallback_answers() -> None:
    decision = decide(router(Known(), away={"cheap": "away", "dear": "away too"}))
    assert (decision.path.name, decision.reason) == ("spare", "availability")
    assert rows(decision)["cheap"] == ("skipped", "away")
    assert rows(decision)["dear"] == ("skipped", "away too")


def test_the_exploration_rate_is_reached_and_each_user_keeps_a_path() -> None:
    by = router(Known(dear=with_cost(GOOD, 9e-6)))
    taken = {f"user-{number}": decide(by, f"user-{number}") for number in range(10_000)}
    tried = [user for user, decision in taken.items() if decision.reason == "policy:trial"]
    assert len(tried) == pytest.approx(500, abs=87)  # four standard deviations
    assert all(taken[user].path.name == "cheap" for user in tried)
    for user in tried[:20]:
        assert decide(by, user).path.name == "cheap"


def test_without_a_user_each_request_is_sampled_separately() -> None:
    by = router(Known(dear=with_cost(GOOD, 9e-6)))
    tried = sum(decide(by, user="").reason == "policy:trial" for _ in range(10_000))
    assert tried == pytest.approx(500, abs=87)


def test_users_on_the_small_side_of_a_split_explore_no_more_than_others() -> None:
    by = router(Known(dear=with_cost(GOOD, 9e-6)))
    narrow = Router(
        PATHS,
        {"t": TaskConfig(examples="x", policy=PolicyConfig.model_validate({"split": {"cheap": 5, "dear": 95}}))},
        "default",
        availability=Around({}, {}),
        named=Around({}, {}),
        expected_cost=Around({}, {}),
        evidence=Known(),
        adapters=NoAdapters(),
    )
    users = [f"user-{number}" for number in range(10_000)]
    canaries = [user for user in users if decide(narrow, user).path.name == "cheap"]
    tried = sum(decide(by, user).reason == "policy:trial" for user in canaries)
    assert tried / len(canaries) == pytest.approx(0.05, abs=0.04)


# -- in the gateway


@pytest.fixture(autouse=True)
def weighed(request: pytest.FixtureRequest) -> None:
    """Changes the configuration so that the task triage uses `best_value`."""
    if "neighbours" in request.fixturenames:
        terms = {"paths": ["triage_adapter", "triage_few_shot"], "quality_floor": 0.8, "exploration_rate": 0}
        request.getfixturevalue("neighbours").config.tasks["triage"]["policy"] = {"best_value": terms}


async def test_every_api_reports_the_considered_paths(api: ApiClient) -> None:
    routed = await api.route(IN_TRIAGE)
    assert (routed["path"], routed["reason"]) == ("triage_adapter", "policy:none_good_enough")
    too_few = "too few ratings (0 of 20): exploration rate 0 %"
    assert [(row["path"], row["outcome"], row["reason"]) for row in routed["considered"]] == [
        ("triage_adapter", "chosen", f"none is known to be good enough yet; {too_few}"),
        ("triage_few_shot", "fallback", too_few),
        ("safe_start", "fallback", "in reserve"),
    ]


def test_a_preview_makes_no_incumbent() -> None:
    good = PathEvidence(ratings=100, quality=0.95)
    known = Known(cheap=POOR, dear=good)
    by = router(known, costs={"cheap": 4.9e-6, "dear": 5e-6})
    (seen,) = by.previews()
    assert (seen.choice, seen.reason) == ("dear", "policy:best_value")
    assert "under the floor" in {p.path.name: p.explanation for p in seen.candidates}["cheap"]
    known.learn(cheap=good)
    assert decide(by).path.name == "cheap"  # an incumbent would have stayed, because 2 % are within the hysteresis


def test_a_preview_does_not_choose_an_unavailable_path() -> None:
    known = Known(cheap=GOOD, dear=GOOD)
    (seen,) = router(known, away={"cheap": "breaker open"}).previews()
    assert (seen.choice, {p.path.name: p.unavailable for p in seen.candidates}["cheap"]) == ("dear", "breaker open")
