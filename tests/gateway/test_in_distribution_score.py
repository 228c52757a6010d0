"""The in-distribution score: its signals, their weights, and the threshold that decides whether the next stage is
asked."""

import numpy as np
import pytest
from pointsman_embedding import MiniLM, StaticModel
from pointsman_gateway.classification.cascade import StaticStage
from pointsman_gateway.classification.classes import TaskClasses
from pointsman_gateway.classification.fitting.examples import Corpus, Examples, collect_examples
from pointsman_gateway.classification.fitting.fit import fit_classifier
from pointsman_gateway.classification.fitting.selection import StageResults, fit_threshold
from pointsman_gateway.classification.model import STATIC, FitSettings
from pointsman_gateway.classification.scores import Signals, fit_scale

EXAMPLES = {
    "lost": [f"i lost my card {when}" for when in ("today", "abroad", "on monday", "in rome", "at home", "last week")],
    "limit": [f"raise my card limit to {n}" for n in ("900", "1000", "2500", "3000", "5000", "9000")],
}


@pytest.fixture(scope="module")
def data(static_model: StaticModel) -> Examples:
    return collect_examples(EXAMPLES, (), static_model, seed=7)


def test_a_pair_of_one_task_speaks_for_it_and_hardly_against_the_other(data: Examples) -> None:
    corpus, rows = Corpus([*data.texts, "please lost my", "to to to"]), np.arange(len(data.texts))
    ratios = corpus.pair_ratios(rows, data.y, len(data.tasks))
    [of_lost, unknown] = corpus.pair_scores(np.array([len(rows), len(rows) + 1]), rows, ratios)
    # "lost my" is one of four pairs, and known: log((6 + 5/2) / (6 + 5) / 0.5) is 7/16; the other is limited to -1/2.
    assert dict(zip(data.tasks, of_lost.tolist(), strict=True)) == {"lost": 7 / 16 / 2, "limit": -1 / 2 / 2}
    np.testing.assert_array_equal(unknown, [0, 0])


def test_a_task_without_examples_has_no_pair_of_its_own(data: Examples) -> None:
    corpus, rows = Corpus(data.texts), np.flatnonzero(data.y == data.tasks.index("lost"))
    ratios = corpus.pair_ratios(rows, data.y[rows], len(data.tasks))
    assert len(ratios)
    np.testing.assert_array_equal(ratios, 0)


def test_a_served_text_has_the_pair_scores_that_the_fit_computes(
    data: Examples, static_model: StaticModel, minilm: MiniLM
) -> None:
    fitted = fit_classifier(EXAMPLES, (), static_model, minilm, FitSettings(stages=(STATIC,)))
    assert fitted.static
    assert fitted.vocabulary
    stage = StaticStage(fitted.static, fitted.vocabulary, static_model)
    corpus, rows = Corpus(data.texts), np.arange(len(data.texts))
    expected = corpus.pair_scores(rows, rows, corpus.pair_ratios(rows, data.y, len(data.tasks)))
    served = [stage.evaluate(text) for text in data.texts]
    means = fitted.vocabulary.pair_ratios.means
    np.testing.assert_allclose([output.pairs for output in served if output], expected - means, atol=1e-5)


@pytest.mark.parametrize(("own", "others", "weight"), [(1.0, 0.0, 1.0), (0.0, 0.0, 0.0), (0.0, 1.0, 0.0)])
def test_pairs_count_as_far_as_they_tell_a_task_from_the_most_probable_other(
    own: float, others: float, weight: float
) -> None:
    noise = np.random.default_rng(1).normal(0, 0.1, (2, 1000))
    signals = Signals(noise[0], noise[0] + own, noise[0], noise[0], pairs_of_others=noise[1] + others)
    scale = fit_scale(signals, np.full(1000, True), classes=10)
    assert scale.pairs_weight == pytest.approx(weight, abs=0.01)


@pytest.mark.parametrize(("errors", "escalated"), [(0, False), (1, False), (2, True)])
def test_one_error_of_the_static_stage_does_not_send_every_text_to_the_encoder(errors: int, escalated: bool) -> None:
    count = 1200
    y, scores = np.zeros(count, np.intp), np.linspace(-1, 1, count)
    data = Examples(("a", "b"), ("",) * count, y, y, TaskClasses.of_counts([1, 1]), folds=y)
    scale = fit_scale(Signals(scores, scores, scores, scores, scores), data.inside, classes=2)
    wrong = (np.arange(count) >= count - errors).astype(np.intp)
    sure = np.full(count, 1.0)
    encoder = StageResults(1.0, scale, predicted=y, confidence=sure, margin=sure, score=scores)
    static = StageResults(1.0, scale, predicted=wrong, confidence=sure, margin=sure, score=scores)
    assert (fit_threshold(data, static, encoder).min_margin > 1) == escalated
