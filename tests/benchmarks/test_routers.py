"""The metrics of the router benchmarks give the figures that the metrics' authors have published."""

import csv
import json
import tomllib
from pathlib import Path

import numpy as np
import pytest

from benchmarks.routers import llmrouterbench, mixed_tasks, routerarena, routerbench
from benchmarks.routers.__main__ import PUBLISHED, facts_of, with_published
from benchmarks.routers.contenders import Contender, neighbours, ridge
from benchmarks.routers.curves import by_tolerance, by_utility, cost_share, hull, mean_gain, oracle, point_of
from benchmarks.routers.result import Result, Row
from benchmarks.routers.score_table import ScoreTable

SCORES = np.array([[1.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
USD = np.tile([0.001, 0.01], (4, 1))


def table(scores: np.ndarray = SCORES, usd: np.ndarray = USD, sets: str = "aabb") -> ScoreTable:
    models = tuple(f"model{at}" for at in range(scores.shape[1]))
    return ScoreTable([str(row) for row in range(len(scores))], np.array(list(sets)), models, scores, usd)


@pytest.mark.parametrize("name", ["vLLM-SR", "GPT-5 alone", "CARROT", "RouterBench-KNN", "RouteLLM"])
def test_the_arena_score_of_published_routers_is_the_published_one(name: str) -> None:
    rows = tomllib.loads(PUBLISHED.read_text("utf-8"))["routerarena"]["rows"]
    found = next(row for row in rows if row["name"] == name)
    score = 100 * routerarena.arena_score(found["accuracy"] / 100, found["$ per 1,000"])
    assert score == pytest.approx(found["Arena"], abs=0.03)


def test_optimality_is_of_the_cheapest_right_model() -> None:
    figures = routerarena.figures_of(np.array([1, 1, 0, 0]), table())
    assert figures["accuracy"] == 50
    assert figures["Opt.Sel"] == pytest.approx(100 / 3)  # the second of three questions that a model answers
    assert figures["Opt.Acc"] == pytest.approx(200 / 3)
    assert figures["Opt.Cost"] == pytest.approx(100 * (0.001 + 0.01) / 0.02)
    best = routerarena.figures_of(oracle(table()), table())
    assert [best[name] for name in ("Opt.Sel", "Opt.Cost", "Opt.Acc")] == [100, 100, 100]


def test_relative_gains_are_means_over_the_data_sets() -> None:
    scores = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    own = Contender("own", np.array([[1, 0], [1, 0], [1, 0], [0, 1]], float), USD)
    found = llmrouterbench.figures_of([own], table(scores))
    assert found["own"]["AvgAcc"] == 75  # 1 in the first set, 0.5 in the second
    assert found["own"]["Gain@R, %"] == pytest.approx(100 * (1 / 0.75 - 1 + 0.5 / 0.5 - 1) / 2)
    assert found["own"]["Gain@B, %"] == pytest.approx(100 * (1 / 0.5 - 1 + 0.5 / 1 - 1) / 2)
    assert found["own"]["Gap@O, %"] == pytest.approx(100 * (0 + 0.5) / 2)
    assert found["best single model"]["AvgAcc"] == 75
    assert found["dataset oracle"]["AvgAcc"] == 100


def test_a_cost_is_saved_only_where_the_best_single_model_is_reached() -> None:
    predicted = np.array([[1, 1], [0, 1], [0, 1], [0, 0]], float)
    figures = llmrouterbench.figures_of([Contender("own", predicted, USD)], table())["own"]
    assert figures["PerfGain, %"] == 0
    assert figures["CostSave, %"] == pytest.approx(100 * (1 - 0.022 / 0.04))


def test_the_hull_is_concave_and_does_not_fall() -> None:
    points = np.array([[1, 0.2], [2, 0.3], [3, 0.6], [4, 0.5], [2.5, 0.1], [1, 0.1]])
    np.testing.assert_allclose(hull(points), [[1, 0.2], [3, 0.6]])
    # from 1 to 3 on the slope, from 3 to 4 level, divided by 4
    assert routerbench.aiq(points, 4.0) == pytest.approx((0.4 * 2 + 0.6) / 4)


def test_a_perfect_router_gains_over_the_best_mix_of_single_models() -> None:
    perfect = Contender("perfect", SCORES, USD)
    points = by_utility(perfect, table())
    assert point_of(oracle(table()), table()) == (pytest.approx(0.0055), 0.75)
    assert mean_gain(points, table()) > 0.05
    assert mean_gain(by_tolerance(perfect, table(), USD[0]), table()) > 0.05
    assert cost_share(points, table(), 1.0) == pytest.approx(0.55)
    nothing = Contender("nothing", np.tile(SCORES.mean(axis=0), (4, 1)), USD)
    assert mean_gain(by_utility(nothing, table()), table()) == pytest.approx(0)
    assert cost_share(by_utility(nothing, table()), table(), 1.0) == pytest.approx(1)


def test_routers_that_do_not_look_at_requests_are_points_of_the_models() -> None:
    found = routerbench.baselines(table())
    np.testing.assert_allclose(found["random"], [[0.0055, 0.5]])
    np.testing.assert_allclose(found["best single model"], [[0.01, 0.75]])
    np.testing.assert_allclose(found["mix of single models"], [[0.001, 0.25], [0.01, 0.75]])


@pytest.mark.parametrize("learner", [neighbours(5), ridge(0.3)])
def test_simple_routers_predict_what_near_rows_have(learner: object) -> None:
    random = np.random.default_rng(1)
    vectors = random.normal(0, 1, (200, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = np.stack([vectors[:, 0] > 0, vectors[:, 1] > 0], axis=1).astype(float)
    predicted = learner(vectors[:150], scores[:150], vectors[150:])  # type: ignore[operator]  # a Learner
    assert ((predicted > 0.5) == (scores[150:] > 0.5)).mean() > 0.85


def test_results_are_read_as_llmrouterbench_stores_them(tmp_path: Path) -> None:
    for model, score in (("small", 0.0), ("large", 1.0)):
        folder = tmp_path / llmrouterbench.FOLDER / "aime" / "test" / model
        folder.mkdir(parents=True)
        records = [{"prompt": text, "score": score, "cost": 0.5 + score} for text in ("a", "b")]
        for time, of_time in (("20250101", records[:1]), ("20250102", records if model == "small" else records[:1])):
            (folder / f"{time}.json").write_text(json.dumps({"records": of_time}))
    found = llmrouterbench.read(tmp_path)
    assert (found.texts, found.models, found.sets.tolist()) == (["a"], ("large", "small"), ["aime"])
    assert (found.scores.tolist(), found.usd.tolist()) == ([[1.0, 0.0]], [[1.5, 0.5]])


def test_routerbench_is_read_without_incomplete_and_repeated_rows(tmp_path: Path) -> None:
    folder = tmp_path / routerbench.FOLDER
    folder.mkdir(parents=True)
    for part in ("train", "test"):
        with (folder / f"mbpp_{part}.csv").open("w", newline="") as lines:
            writer = csv.writer(lines)
            writer.writerow(["prompt", "eval_name", "gpt", "llama", "gpt|total_cost", "llama|total_cost"])
            for prompt, score in (("['Add', 'two']", 1.0), ("['Add', 'two']", 0.0), ("['Subtract']", "")):
                writer.writerow([prompt, "mbpp", score, 0.0, 0.01, 0.001])
    found = routerbench.read(tmp_path).tested
    assert (found.texts, found.models) == (["Add\ntwo"], ("gpt", "llama"))
    assert (found.scores.tolist(), found.usd.tolist()) == ([[1.0, 0.0]], [[0.01, 0.001]])


def test_rows_of_the_development_are_never_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixed_tasks, "TESTED_ROWS", 40)
    rows = table(np.zeros((200, 2)), np.zeros((200, 2)), "ab" * 100)
    development = np.random.default_rng(mixed_tasks.DEVELOPMENT_SEED).permutation(200)[:100]
    for seed in mixed_tasks.SEEDS:
        split = mixed_tasks.split_of(rows, seed)
        assert (len(split.tested.texts), len(split.learned.texts)) == (40, 160)
        assert not set(split.tested.texts) & set(map(str, development))


def test_targets_are_compared_with_their_figures() -> None:
    figures, targets = {"gain": 3.0, "cost_95": 21.0, "more": 1.0}, {"gain": 2.5, "cost_95": 20.0}
    result = Result("RouterArena", "data", ("Arena",), [Row("own", {"Arena": 70.0})], figures, targets)
    assert facts_of(result) == {**figures, "targets": targets, "met": {"gain": True, "cost_95": False}}
    shown = with_published("routerarena", result).as_markdown()
    assert "| own | 70.00 |" in shown
    assert "| vLLM-SR (published) | 75.30 |" in shown
    assert "github.com/xufan866/RouterArena" in shown
