"""The policy `predicted`, and the command that learns its predictions from an evaluation."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pointsman_embedding import MiniLM
from pointsman_gateway.config.load import ConfigError, load_config
from pointsman_gateway.domain import PathEvidence, Request, Vector
from pointsman_gateway.extensions import Candidate
from pointsman_gateway.routing.predicted import Predicted, PredictedOptions, encode_weights
from pointsman_lab.prediction import Evaluation, best_mix, evaluate_policy, fit, predict, read_evaluation
from pydantic import ValidationError

from tests.gateway.doubles.config_folder import IN_TRIAGE
from tests.gateway.doubles.gateway import Neighbours, open_http_client

RNG = np.random.default_rng(3)
VECTORS = RNG.normal(0, 1, (400, 8)) / 8**0.5
EASY = VECTORS[:, 0] > 0
COSTS = np.array([0.001, 0.01])
"""Dollars of an answer of the small and the large model."""
SCORES = np.stack([EASY, np.ones(400)], axis=1).astype(float)
"""The small model answers only the easy half."""


def options(small: Sequence[float], large: Sequence[float], tolerance: float = 0.1) -> dict[str, Any]:
    """Weights of both paths; the means are 0.4 and 0.9."""
    paths = {
        name: {"mean": mean, "bias": 0.0, "weights": encode_weights(np.array(weights))}
        for name, mean, weights in (("small", 0.4, small), ("large", 0.9, large))
    }
    return {"encoder": "tiny", "tolerance": tolerance, "paths": paths}


@dataclass
class Context:
    """Implements `PolicyContext`."""

    vector: Vector | None
    away: Mapping[str, str] = field(default_factory=dict)
    task: str = "triage"
    request: Request = field(default_factory=lambda: Request("auto", ()))

    def candidates(self, paths: Sequence[str]) -> list[Candidate]:
        return [Candidate(name, PathEvidence(), {"small": 0.001, "large": 0.01}[name]) for name in paths]

    def unavailable(self, paths: Sequence[str]) -> Mapping[str, str]:
        return self.away

    def position(self, purpose: str = "") -> float:
        return 0.5


@pytest.mark.parametrize(
    ("vector", "away", "paths"),
    [
        ([1, 0], {}, ("small", "large")),  # 0.95 and 0.98
        ([-1, 0], {}, ("large", "small")),  # 0.05 and 0.98
        (None, {}, ("large", "small")),  # the means
        ([-1, 0], {"large": "no engine"}, ("small",)),
        ([-1, 0], {"large": "no engine", "small": "no engine"}, ("large", "small")),
    ],
)
def test_the_cheapest_path_that_is_predicted_to_be_good_enough_is_chosen(
    vector: list[float] | None, away: dict[str, str], paths: tuple[str, ...]
) -> None:
    learned = options([3, 0], [0, 0])
    learned["paths"]["large"]["bias"] = 4.0
    policy = Predicted(PredictedOptions.model_validate(learned))
    given = None if vector is None else np.array(vector, np.float32)
    plan = policy.plan(Context(given, away))
    assert plan.paths == paths
    assert plan.reason == "policy:predicted"
    assert all(plan.explanations[name] == why for name, why in away.items())
    if not away and vector == [1, 0]:
        assert plan.explanations["small"] == "predicted quality 0.95 at $1.0000 per 1,000"


@pytest.mark.parametrize(
    ("small", "message"),
    [([1, 2, 3], "weights of different length"), ([float("nan"), 1], "not finite numbers")],
)
def test_options_that_cannot_be_used_are_refused(small: list[float], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PredictedOptions.model_validate(options(small, [0, 0]))


def test_what_was_learned_saves_money_without_loss_of_quality() -> None:
    learned, tested = slice(0, 200), slice(200, 400)
    predicted = np.stack([fit(VECTORS[learned], SCORES[learned, path]).of(VECTORS[tested]) for path in (0, 1)], axis=1)
    result = evaluate_policy(predicted, SCORES[tested], COSTS, tolerance=0.4)
    assert result.quality > 0.95
    assert 0.3 < result.shares[0] < 0.6
    assert result.bound > 0.15


def test_predictions_without_information_are_the_mean() -> None:
    noise = RNG.integers(0, 2, 400).astype(float)
    predicted = fit(VECTORS, noise).of(VECTORS)
    assert np.abs(predicted - noise.mean()).max() < 0.1


def test_the_best_mix_of_fixed_paths_costs_what_is_allowed() -> None:
    means, costs = np.array([0.5, 0.9, 0.2]), np.array([1.0, 3.0, 2.0])
    np.testing.assert_allclose(best_mix(means, costs, 2.0), [0.5, 0.5, 0])
    np.testing.assert_allclose(best_mix(means, costs, 9.0), [0, 1, 0])
    np.testing.assert_allclose(best_mix(means, costs, 1.0), [1, 0, 0])


def test_a_policy_that_is_not_better_than_fixed_paths_is_reported_as_a_failure() -> None:
    scores = np.stack([RNG.integers(0, 2, 400), RNG.integers(0, 2, 400)], axis=1).astype(float)
    texts = [""] * 400
    report = predict(Evaluation(texts, ("small", "large"), scores, COSTS), VECTORS, "tiny", 0.1)
    assert "not better than fixed paths at equal cost" in report.failure
    report = predict(Evaluation(texts, ("small", "large"), SCORES, COSTS), VECTORS, "tiny", 0.3)
    assert not report.failure
    assert report.facts["lower_bound"] > 0.1
    Predicted(PredictedOptions.model_validate(report.facts["policy"]["predicted"]))


def write_evaluation(folder: Path, rows: int = 120) -> tuple[Path, Path]:
    data = [{"id": f"r{n}", "text": f"question {n}", "output": "x"} for n in range(rows)]
    answers: list[dict[str, Any]] = [{"evaluation": 1}]
    answers += [
        {"row": f"r{n}", "task": "triage", "path": path, "score": score, "cost_parts_usd": {"prompt": usd, "done": usd}}
        for n in range(rows)
        for path, score, usd in (("small", float(n % 2), 0.001), ("large", 1.0, 0.01), ("auto", 0.5, 0.0))
    ]
    files = folder / "rows.jsonl", folder / "answers.jsonl"
    for file, lines in zip(files, (data, answers), strict=True):
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return files


def test_an_evaluation_is_read_from_its_data_set_and_answers(tmp_path: Path) -> None:
    found = read_evaluation(*write_evaluation(tmp_path), "triage")
    assert found.paths == ("small", "large")
    assert (found.texts[1], found.scores[1].tolist()) == ("question 1", [1.0, 1.0])
    np.testing.assert_allclose(found.costs, [0.002, 0.02])


def test_too_little_evidence_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="all paths answered 99 rows of task 'triage'; 100 are needed"):
        read_evaluation(*write_evaluation(tmp_path, 99), "triage")
    with pytest.raises(ConfigError, match="has answers of 0 paths to task 'chat'; two or more are compared"):
        read_evaluation(*write_evaluation(tmp_path), "chat")


LATE = "My train on Friday was 70 minutes late, I claim compensation"


async def test_the_gateway_chooses_for_each_request(neighbours: Neighbours, minilm: MiniLM) -> None:
    lost, late = minilm.embed([IN_TRIAGE, LATE])
    towards = lost - late
    halfway = float(towards @ (lost + late) / 2)
    paths = {
        "triage_adapter": {"mean": 0.5, "bias": -30 * halfway, "weights": encode_weights(30 * towards)},
        "triage_few_shot": {"mean": 0.9, "bias": 4.0, "weights": encode_weights(np.zeros(len(lost)))},
    }
    policy = {"predicted": {"encoder": minilm.fingerprint, "tolerance": 0.1, "paths": paths}}
    neighbours.config.tasks["triage"] |= {"policy": policy, "fallback": []}
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        for text, path in ((IN_TRIAGE, "triage_adapter"), (LATE, "triage_few_shot")):
            body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
            decision = (await http.post("/v1/route", json=body)).raise_for_status().json()
            assert (decision["path"], decision["reason"]) == (path, "policy:predicted")
            told = (await http.post("/v1/chat/completions", json=body)).raise_for_status().json()["pointsman"]
            assert told["path"] == path


async def test_weights_for_another_embedding_model_are_refused(neighbours: Neighbours) -> None:
    paths = dict(zip(("triage_adapter", "triage_few_shot"), options([1], [1])["paths"].values(), strict=True))
    policy = {"predicted": {"encoder": "another", "paths": paths}}
    neighbours.config.tasks["triage"] |= {"policy": policy, "fallback": []}
    with pytest.raises(ConfigError, match=r"weights are for the embedding model another, but minilm.* is in use"):
        async with neighbours.gateway():
            pass
    assert load_config(neighbours.config.folder).tasks.tasks["triage"].policy.paths == tuple(paths)
