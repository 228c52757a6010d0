"""`pointsman predict` learns which requests each path answers well and at which cost, and measures the gain of choosing
by that."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.routing.predicted import Predicted, PredictedOptions
from pointsman_lab.prediction.choice import (
    Outcomes,
    best_mix,
    choose,
    measure_out_of_fold,
    prices_to_try,
)
from pointsman_lab.prediction.cost import fit_cost
from pointsman_lab.prediction.evaluation import Evaluation
from pointsman_lab.prediction.inputs import FOLDS, Array, Inputs, folds_of, mix, task_means
from pointsman_lab.prediction.policy import Target, candidates_of
from pointsman_lab.prediction.policy import learn as learn_paths
from pointsman_lab.prediction.quality import fit, predict_out_of_fold
from pointsman_lab.prediction.report import predict
from pointsman_lab.report import Report
from threadpoolctl import threadpool_limits

from tests.gateway.test_predicted import Context

RNG = np.random.default_rng(3)
VECTORS = RNG.normal(0, 1, (400, 4)) / 4**0.5
EASY = VECTORS[:, 0] > 0
INPUTS = Inputs.of_one_task(VECTORS)
COSTS = np.array([0.001, 0.01])
"""Dollars of an answer, of the small and of the large model."""
SCORES = np.stack([EASY, np.ones(400)], axis=1).astype(float)
"""Scores of both models: the small one answers only the easy half well."""
PATHS = ("small", "large")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Limits BLAS to one thread: its threads busy-wait for each other, and the matrices are small."""
    with threadpool_limits(limits=1):
        yield


def evaluation(scores: Array, usd: Array | None = None, texts: list[str] | None = None) -> Evaluation:
    """Returns an evaluation of both paths. By default every answer costs the path's mean, and all texts have the same
    length.
    """
    usd = np.tile(COSTS, (len(scores), 1)) if usd is None else usd
    return Evaluation(texts or [""] * len(scores), PATHS, scores, usd, COSTS, np.full(len(scores), 100.0))


def learn(asked: Evaluation, vectors: Array, target: Target) -> Report:
    """Learns the options of the policy for one task, and returns the report."""
    return predict(asked, Inputs.of_one_task(vectors, asked.lengths), ("triage",), "tiny", target)


def test_what_was_learned_saves_money_without_loss_of_quality() -> None:
    usd = np.tile(COSTS, (400, 1))
    outcomes = Outcomes(predict_out_of_fold(INPUTS, SCORES), usd, SCORES, usd)
    result = measure_out_of_fold(outcomes, folds_of(400), [0.02] * FOLDS)
    assert result.quality > 0.95
    assert 0.3 < result.shares[0] < 0.6
    assert result.best == 1
    assert result.bound > 0.15
    assert result.gain_at_equal_cost > result.gain


def test_scores_of_one_path_for_each_row_teach_as_well() -> None:
    sparse = SCORES.copy()
    sparse[np.arange(400), RNG.integers(0, 2, 400)] = np.nan
    known = ~np.isnan(sparse[:, 0])
    np.testing.assert_array_equal(fit(INPUTS, sparse[:, 0]).weights, fit(INPUTS.rows(known), SCORES[known, 0]).weights)
    texts = list(map(str, range(160)))
    first = evaluation(SCORES[:120], texts=texts[:120])
    rows = [*range(120, 160), 0]
    live = Evaluation(
        [*texts[120:], texts[0]], PATHS[::-1], sparse[rows, ::-1], np.full((41, 2), np.nan), COSTS[::-1], np.ones(41)
    )
    both = first.with_rows(live)
    assert list(both.texts) == texts
    np.testing.assert_array_equal(both.scores[120:], sparse[120:160])
    np.testing.assert_array_equal(both.filled_usd, np.tile(COSTS, (160, 1)))
    report = learn(both, VECTORS[:160], Target())
    assert not report.failure
    assert (report.facts["rows"], report.facts["rated"]["small"]) == (120, 120 + known[120:160].sum())


def test_a_gain_that_cannot_be_measured_is_refused() -> None:
    sparse = SCORES.copy()
    sparse[:301, 0] = np.nan
    with pytest.raises(ConfigError, match=r"99 rows have scores of all paths \(small, large\), and 100 are needed"):
        learn(evaluation(sparse), VECTORS, Target())


def test_predictions_without_information_are_the_mean() -> None:
    noise = RNG.integers(0, 2, 400).astype(float)
    predicted = fit(INPUTS, noise).of(INPUTS)
    assert np.abs(predicted - noise.mean()).mean() < 0.05


def test_the_cost_of_an_answer_follows_from_length_and_kind() -> None:
    lengths = np.exp(RNG.uniform(4, 8, 400))
    dear = 0.002 * np.exp(2 * VECTORS[:, 1]) * lengths**0.5
    inputs = Inputs.of_one_task(VECTORS, lengths)
    first, others = inputs.rows(np.arange(300)), inputs.rows(np.arange(300, 400))
    learned = fit_cost(first, dear[:300])
    np.testing.assert_allclose(learned.of(others), dear[300:], rtol=0.25)
    assert learned.of(first).mean() == pytest.approx(dear[:300].mean())
    noise = RNG.lognormal(0, 0.5, 400)
    unknown = np.where(np.arange(400) < 100, np.nan, noise)
    flat = fit_cost(inputs, unknown).of(inputs)
    assert flat.mean() == pytest.approx(noise[100:].mean(), rel=0.1)
    assert flat.std() < 0.15 * flat.mean()
    np.testing.assert_array_equal(fit_cost(inputs, np.full(400, 0.5)).of(inputs), 0.5)
    np.testing.assert_array_equal(fit_cost(inputs, np.zeros(400)).of(inputs), 0)


def test_the_best_mix_of_fixed_paths_costs_what_is_allowed() -> None:
    means, costs = np.array([0.5, 0.9, 0.2]), np.array([1.0, 3.0, 2.0])
    np.testing.assert_allclose(best_mix(means, costs, 2.0), [0.5, 0.5, 0])
    np.testing.assert_allclose(best_mix(means, costs, 9.0), [0, 1, 0])
    np.testing.assert_allclose(best_mix(means, costs, 1.0), [1, 0, 0])


def test_prices_from_the_cheapest_answer_to_a_thousand_of_the_dearest_are_tried() -> None:
    prices = prices_to_try(np.array([0.0, 0.002, 0.5]))
    assert (prices[0], prices[-1]) == (0.002, 500.0)
    assert all(1.1 < after / before < 1.4 for before, after in pairwise(prices))
    assert prices_to_try(np.zeros(2)) == [1.0]


def test_a_policy_that_is_not_better_than_the_best_single_path_is_reported_as_a_failure() -> None:
    scores = np.stack([RNG.integers(0, 2, 400), RNG.integers(0, 2, 400)], axis=1).astype(float)
    report = learn(evaluation(scores), VECTORS, Target())
    assert "the policy is not better than always small" in report.failure
    noisy = np.where(np.random.default_rng(0).random((400, 2)) < 0.05, 1 - SCORES, SCORES)
    report = learn(evaluation(noisy), VECTORS, Target(usd_per_wrong_answer=100.0))
    assert "the policy is not better than always large" in report.failure
    assert "choose another price (it gains at 0.0" in report.failure


def test_the_printed_dollars_are_those_of_later_requests() -> None:
    rng = np.random.default_rng(9)
    vectors = rng.normal(0, 0.5, (2400, 4))
    chance = np.stack([1 / (1 + np.exp(-0.5 - 1.2 * vectors[:, 0])), np.full(2400, 0.8)], axis=1)
    asked = evaluation((rng.random((2400, 2)) < chance).astype(float)[:400])
    target, inputs = Target(usd_per_wrong_answer=0.04), Inputs.of_one_task(vectors[:400], asked.lengths)
    learned = learn_paths(candidates_of(asked, inputs, target)[0], asked)
    later = Inputs.of_one_task(vectors[400:], np.full(2000, 100.0))
    chosen = choose(
        np.stack([one.quality.of(later) for one in learned], axis=1),
        np.stack([one.cost.of(later) for one in learned], axis=1),
        0.04,
    )
    facts = learn(asked, vectors[:400], target).facts
    assert facts["usd_per_1000"] == pytest.approx(1000 * COSTS[chosen].mean(), rel=0.1)  # out of fold 39 % more


@pytest.mark.parametrize(("target", "quality"), [(Target(), 0.95), (Target(quality=0.8), 0.8), (Target(0.02), 0.95)])
def test_a_price_or_a_quality_is_reached_at_the_least_cost(target: Target, quality: float) -> None:
    report = learn(evaluation(SCORES), VECTORS, target)
    facts = report.facts
    assert not report.failure
    assert facts["lower_bound"] > 0.02
    assert facts["quality"] > quality - 0.04
    assert facts["usd_per_1000"] < 7
    curve = {point["usd_per_wrong_answer"]: point for point in facts["curve"]}
    assert facts["usd_per_wrong_answer"] in curve
    qualities = [point["quality"] for point in curve.values()]
    assert (qualities[0], qualities[-1]) == (pytest.approx(SCORES[:, 0].mean()), pytest.approx(1, abs=0.02))
    policy = facts["policy"]["predicted"]
    assert policy["usd_per_wrong_answer"] == facts["usd_per_wrong_answer"]
    Predicted(PredictedOptions.model_validate(policy))


# -- several tasks


class TwoTasks:
    """Requests of two tasks, each answered well by a different path; `within` is how much the paths' quality also
    depends on the request.
    """

    def __init__(self, within: float, rows: int = 600) -> None:
        random = np.random.default_rng(5)
        self.task = random.integers(0, 2, rows)
        vectors = random.normal(0, 1, (rows, 4)) / 2
        logits = np.where((np.arange(2) == self.task[:, None]), 2.0, -1.0) + within * vectors[:, :2]
        self.scores = (random.random((rows, 2)) < 1 / (1 + np.exp(-logits))).astype(float)
        sure = np.clip(0.9 + 0.05 * random.normal(size=rows), 0.5, 0.99)
        shares = np.where(np.arange(2) == self.task[:, None], sure[:, None], 1 - sure[:, None])
        self.inputs = Inputs(vectors, np.full(rows, 100.0), shares)

    def learn(self, rows: NDArray[np.int64]) -> Report:
        asked = evaluation(self.scores[rows])
        return predict(asked, self.inputs.rows(rows), ("triage", "chat"), "tiny", Target(usd_per_wrong_answer=1.0))


@pytest.mark.parametrize(("within", "predictions"), [(0.0, "tasks"), (8.0, "requests")])
def test_the_means_of_tasks_decide_unless_requests_within_a_task_differ(within: float, predictions: str) -> None:
    known = TwoTasks(within)
    report = known.learn(np.arange(len(known.task)))
    assert not report.failure
    assert report.facts["lower_bound"] > 0.1
    policy = report.facts["policy"]["predicted"]
    assert (report.facts["predictions"], "encoder" in policy) == (predictions, predictions == "requests")
    assert {name: path["tasks"].keys() for name, path in policy["paths"].items()} == {
        name: {"triage", "chat"} for name in PATHS
    }
    Predicted(PredictedOptions.model_validate(policy))


def test_the_gateway_predicts_what_was_learned() -> None:
    known = TwoTasks(within=8.0)
    learned, tested = np.arange(400), np.arange(400, 420)
    policy = Predicted(PredictedOptions.model_validate(known.learn(learned).facts["policy"]["predicted"]))
    own, others = known.inputs.rows(learned), known.inputs.rows(tested)
    expected = np.stack([fit(own, known.scores[learned, at]).of(others) for at in (0, 1)], axis=1)
    for row in range(len(tested)):
        shares = dict(zip(("triage", "chat"), others.shares[row], strict=True))
        plan = policy.plan(Context(others.vectors[row].astype(np.float32), task_probabilities=shares))
        found = [plan.worth_usd[path] for path in PATHS]  # at a dollar for a wrong answer
        np.testing.assert_allclose(found, expected[row], atol=0.005)


def test_the_mean_of_a_task_with_few_rows_is_near_that_of_all() -> None:
    shares = np.zeros((100, 2))
    shares[:95, 0], shares[95:, 1] = 1, 1
    values = np.where(np.arange(100) < 95, 0.5, 1.0)
    means = task_means(shares, values, 0.5)
    np.testing.assert_allclose(means, [0.5, 0.75])
    np.testing.assert_allclose(mix(np.array([[0.5, 0.25], [0, 0]]), means, 0.5), [0.5625, 0.5])


def test_where_tasks_gain_nothing_either_the_policy_is_refused() -> None:
    known, random = TwoTasks(within=0.0), np.random.default_rng(9)
    known.scores = (random.random(known.scores.shape) < (0.6, 0.8)).astype(float)
    assert "the policy is not better than always large" in known.learn(np.arange(len(known.task))).failure


def test_one_policy_is_printed_for_all_tasks_and_for_requests_of_none() -> None:
    known = TwoTasks(within=0.0)
    shares = np.column_stack([known.inputs.shares, np.zeros(len(known.task))])
    inputs, tasks = Inputs(known.inputs.vectors, known.inputs.lengths, shares), ("triage", "chat", "unknown")
    report = predict(evaluation(known.scores), inputs, tasks, "tiny", Target(usd_per_wrong_answer=1.0))
    written = yaml.safe_load("\n".join(report.page[-1].lines))
    assert written["tasks"].keys() == {"triage", "chat"}
    assert written["default_policy"] == written["tasks"]["chat"]["policy"] == report.facts["policy"]
    small = written["default_policy"]["predicted"]["paths"]["small"]
    assert small["tasks"]["unknown"]["mean"] == pytest.approx(small["mean"])


def test_a_policy_for_requests_of_no_task_alone_is_the_default_policy() -> None:
    inputs = Inputs.of_one_task(VECTORS, np.full(400, 100.0))
    report = predict(evaluation(SCORES), inputs, ("unknown",), "tiny", Target())
    assert yaml.safe_load("\n".join(report.page[-1].lines)) == {"default_policy": report.facts["policy"]}
