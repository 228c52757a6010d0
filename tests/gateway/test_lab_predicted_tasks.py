"""For several tasks, `pointsman predict` asks the configuration's classifier for the probable tasks of each text."""

import json
from pathlib import Path

import numpy as np
import pytest
from pointsman_gateway.bootstrap.models import EmbeddingModels
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import load_config
from pointsman_lab.log_source import LogSource
from pointsman_lab.prediction.command import PredictOrder, learn
from pointsman_lab.prediction.policy import Target
from pointsman_lab.prediction.task_shares import shares_of_tasks

from tests.gateway.doubles.config_folder import IN_CHAT, IN_NONE, IN_POLICY, IN_TRIAGE, ConfigFolder

NEW_TRIAGE = "I left my bag on the 8:40 to Saltby yesterday, please find it"


def no_progress(activity: str, done: int, total: int) -> None:
    """Reports nothing."""


@pytest.fixture(scope="module")
def models(model_folder: Path) -> EmbeddingModels:
    return EmbeddingModels.load(model_folder)


def order(tasks: tuple[str, ...], scores: Path) -> PredictOrder:
    return PredictOrder(tasks, None, None, scores, False, "14d", LogSource(), Target(usd_per_wrong_answer=1.0))


def write_scores(file: Path, rows: int = 120) -> Path:
    """Writes scores of two paths: the small one answers triage, the large one chat."""
    lines = []
    for number in range(rows):
        text, is_triage = ((NEW_TRIAGE, True), (IN_CHAT, False))[number % 2]
        for path, score, usd in (("small", is_triage, 0.0001), ("large", not is_triage, 0.001)):
            lines.append({"text": f"{text} ({number})", "path": path, "score": float(score), "cost": usd})
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_texts_have_the_probabilities_of_the_named_tasks(config_folder: ConfigFolder, models: EmbeddingModels) -> None:
    config = load_config(config_folder.write())
    texts, tasks = [NEW_TRIAGE, IN_NONE, IN_POLICY], ("triage", "chat", "unknown")
    shares = shares_of_tasks(texts, tasks, config, models, no_progress)
    assert shares[0, 0] > 0.8
    np.testing.assert_array_equal(shares[1], [0, 0, 1])
    assert shares[2].sum() < 0.7  # mostly of the task that is not named


def test_an_example_is_classified_by_a_classifier_that_has_not_learned_it(
    config_folder: ConfigFolder, models: EmbeddingModels
) -> None:
    config_folder.examples["chat"].append((IN_TRIAGE + "!", None))  # of the wrong task
    config = load_config(config_folder.write())
    known = shares_of_tasks([IN_TRIAGE + "!?"], ("triage", "chat"), config, models, no_progress)
    left_out = shares_of_tasks([IN_TRIAGE + "!"], ("triage", "chat"), config, models, no_progress)
    assert left_out[0, 0] > known[0, 0] + 0.1


async def test_one_policy_is_learned_for_several_tasks(
    config_folder: ConfigFolder, models: EmbeddingModels, tmp_path: Path
) -> None:
    config = load_config(config_folder.write())
    tasks = ("triage", "chat", "unknown")
    report = await learn(order(tasks, write_scores(tmp_path / "scores.jsonl")), config, models, no_progress)
    assert not report.failure
    facts = report.facts
    assert (facts["predictions"], facts["tasks"]) == ("tasks", list(tasks))
    assert facts["quality"] > 0.95
    policy = facts["policy"]
    assert policy["predicted"]["paths"]["small"]["tasks"]["triage"]["mean"] > 0.8
    for task in tasks[:2]:
        config_folder.tasks[task]["policy"] = policy
    config_folder.rest_of_tasks["default_policy"] = policy
    config_folder.paths |= {name: {"model": "tiny", "strategies": []} for name in ("small", "large")}
    assert load_config(config_folder.write()).tasks.tasks["chat"].policy.paths == ("small", "large")


async def test_names_of_tasks_are_checked(config_folder: ConfigFolder, models: EmbeddingModels, tmp_path: Path) -> None:
    config, scores = load_config(config_folder.write()), write_scores(tmp_path / "scores.jsonl", 2)
    for tasks, message in (
        (("triage", "nothing"), "no task 'nothing'; known: chat, policy, triage, unknown"),
        (("chat", "chat"), "task 'chat' is named twice"),
    ):
        with pytest.raises(ConfigError, match=message):
            await learn(order(tasks, scores), config, models, no_progress)
