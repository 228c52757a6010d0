"""The policy `predicted` with several tasks, for requests that fit no task, and before an escalation."""

from typing import Any

import httpx
import numpy as np
import pytest
from pointsman_embedding import MiniLM
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import load_config
from pointsman_gateway.routing.predicted import Predicted, PredictedOptions, encode_weights
from pydantic import ValidationError

from tests.gateway.doubles.config_folder import IN_CHAT, IN_NONE, IN_POLICY, IN_TRIAGE, ConfigFolder
from tests.gateway.doubles.engine import ScriptedEngine, answer
from tests.gateway.doubles.gateway import Neighbours, open_http_client
from tests.gateway.test_predicted import Context

PATHS = {
    "small": {
        "mean": 0.6,
        "bias": 0.0,
        "task_weight": 1.0,
        "tasks": {"triage": {"mean": 0.9, "cost": 0.5}, "chat": {"mean": 0.2, "cost": 2.0}},
    },
    "large": {
        "mean": 0.8,
        "bias": 0.0,
        "task_weight": 1.0,
        "tasks": {"triage": {"mean": 0.8, "cost": 1.0}, "chat": {"mean": 0.8, "cost": 1.0}},
    },
}


def policy(usd_per_wrong_answer: float = 0.1, **more: Any) -> dict[str, Any]:
    return {"predicted": {"usd_per_wrong_answer": usd_per_wrong_answer, "paths": PATHS, **more}}


def predicted(**more: Any) -> Predicted:
    return Predicted(PredictedOptions.model_validate(policy(**more)["predicted"]))


@pytest.mark.parametrize(
    ("probabilities", "path", "small"),
    [
        ({"triage": 1.0}, "small", 0.9),
        ({"chat": 1.0}, "large", 0.2),
        ({"triage": 0.5, "chat": 0.5}, "large", 0.55),
        ({"triage": 0.9, "chat": 0.1}, "small", 0.83),
        ({"policy": 1.0}, "large", 0.6),  # the mean of all tasks
        ({"triage": 0.5, "policy": 0.5}, "small", 0.75),
        ({}, "large", 0.6),
    ],
)
def test_the_means_of_the_tasks_count_with_their_probabilities(
    probabilities: dict[str, float], path: str, small: float
) -> None:
    plan = predicted().plan(Context(None, task_probabilities=probabilities))
    assert plan.paths[0] == path
    assert plan.worth_usd["small"] == pytest.approx(0.1 * small)


@pytest.mark.parametrize(
    ("task", "probabilities", "answers", "usd"),
    [
        ("triage", {"triage": 1.0}, 9, 0.001),  # the mean of the path's answers on the task
        ("chat", {"chat": 1.0}, 9, 0.001),
        ("triage", {"triage": 0.5, "chat": 0.5}, 9, 0.0025),
        ("policy", {"triage": 0.5, "chat": 0.5}, 9, 0.00125),
        ("triage", {"triage": 0.5, "chat": 0.5}, 0, 0.001),  # the estimate is for this request already
    ],
)
def test_the_expected_cost_follows_the_tasks_that_the_request_may_have(
    task: str, probabilities: dict[str, float], answers: float, usd: float
) -> None:
    context = Context(None, task=task, task_probabilities=probabilities, answers=answers)
    quoted = predicted().plan(context).explanations["small"].split("$")[1].removesuffix(" per 1,000")
    assert float(quoted) == pytest.approx(1000 * usd)


def test_an_embedding_is_computed_only_for_weights() -> None:
    assert not predicted().needs_vector
    weighted = {name: path | {"weights": encode_weights(np.array([2.0, 0.0]))} for name, path in PATHS.items()}
    options = {"usd_per_wrong_answer": 0.1, "paths": weighted, "encoder": "tiny"}
    with_weights = Predicted(PredictedOptions.model_validate(options))
    assert with_weights.needs_vector
    near = with_weights.plan(Context(np.array([1, 0], np.float32), task_probabilities={"triage": 1.0}))
    assert near.worth_usd["small"] == pytest.approx(0.1 / (1 + np.exp(-2 - np.log(9))))
    without = with_weights.plan(Context(None, task_probabilities={"triage": 1.0}))
    assert without.worth_usd["small"] == pytest.approx(0.09)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": "tiny"}, "encoder and weights go together"),
        ({"paths": {**PATHS, "other": {"mean": 0.5, "bias": 0.0}}}, "predictions for different tasks"),
    ],
)
def test_options_of_different_fits_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        predicted(**change)


def test_a_rejected_answer_is_replaced_by_a_path_with_a_higher_predicted_quality() -> None:
    plan = predicted(escalate=True).plan(Context(None, task_probabilities={"chat": 1.0}))
    assert (plan.paths, plan.escalates, plan.escalation_order) == (("large", "small"), True, ("small", "large"))
    plan = predicted(escalate=True, usd_per_wrong_answer=0.001).plan(Context(None, task_probabilities={"chat": 1.0}))
    assert (plan.paths, plan.escalation_order) == (("small", "large"), ("small", "large"))
    assert not predicted().plan(Context(None)).escalates


# -- in a gateway


@pytest.fixture
def paths(neighbours: Neighbours) -> None:
    for name in PATHS:
        neighbours.config.paths[name] = {"model": "tiny", "strategies": [{"persona": {"prompt": f"{name}.txt"}}]}
        neighbours.config.prompts[f"{name}.txt"] = f"You are {name}."


async def route(http: httpx.AsyncClient, text: str) -> tuple[str, str, str]:
    body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
    decision = (await http.post("/v1/route", json=body)).raise_for_status().json()
    return decision["task"], decision["path"], decision["reason"]


async def test_one_policy_serves_several_tasks_and_requests_of_none(neighbours: Neighbours, paths: None) -> None:
    for task in ("triage", "chat"):
        neighbours.config.tasks[task] |= {"policy": policy(), "fallback": []}
    neighbours.config.rest_of_tasks["default_policy"] = policy()
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        assert await route(http, IN_TRIAGE) == ("triage", "small", "policy:predicted")
        assert await route(http, IN_CHAT) == ("chat", "large", "policy:predicted")
        assert await route(http, IN_POLICY) == ("policy", "handbook", "policy:fixed")
        assert await route(http, IN_NONE) == ("unknown", "large", "policy:predicted")


async def test_requests_of_no_task_are_embedded_for_a_policy_with_weights(
    neighbours: Neighbours, paths: None, minilm: MiniLM
) -> None:
    zeros = encode_weights(np.zeros(384))
    weighted = {name: path | {"weights": zeros} for name, path in PATHS.items()}
    options = {"usd_per_wrong_answer": 0.1, "paths": weighted, "encoder": minilm.fingerprint}
    neighbours.config.rest_of_tasks["default_policy"] = {"predicted": options}
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        assert await route(http, IN_NONE) == ("unknown", "large", "policy:predicted")
    options["encoder"] = "another"
    with pytest.raises(ConfigError, match="default_policy: its policy's weights are for the embedding model another"):
        async with neighbours.gateway():
            pass


async def test_a_rejected_answer_of_the_chosen_path_escalates(
    neighbours: Neighbours, paths: None, engine: ScriptedEngine
) -> None:
    neighbours.config.tasks["chat"] |= {
        "policy": policy(usd_per_wrong_answer=0.0001, escalate=True),
        "validators": [{"complete": True}, {"regex": "Good"}],
        "fallback": [],
    }
    neighbours.config.paths["small"]["max_tokens"] = 10  # and so it is cheap
    await neighbours.ready()
    engine.script = lambda body: answer("Good day" if "large" in str(body["messages"]) else "Hm")
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        body = {"model": "auto", "messages": [{"role": "user", "content": IN_CHAT}]}
        answered = (await http.post("/v1/chat/completions", json=body)).raise_for_status().json()
    assert answered["choices"][0]["message"]["content"] == "Good day"
    assert answered["pointsman"]["path"] == "large"
    assert ["small" in str(asked["messages"]) for asked in engine.bodies] == [True, False]


@pytest.mark.parametrize(
    ("default_policy", "message"),
    [
        ({"fixed": "nowhere"}, "default_policy names path 'nowhere'"),
        ({"escalate": {"paths": ["handbook", "safe_start"]}}, "default_policy 'escalate' needs validators"),
        (policy(escalate=True), "default_policy names path 'small'"),
    ],
)
def test_a_default_policy_that_cannot_work_is_refused(
    config_folder: ConfigFolder, default_policy: dict[str, Any], message: str
) -> None:
    config_folder.rest_of_tasks["default_policy"] = default_policy
    with pytest.raises(ConfigError, match=message):
        load_config(config_folder.write())


def test_a_policy_that_escalates_needs_validators(config_folder: ConfigFolder) -> None:
    config_folder.paths |= {name: {"model": "tiny", "strategies": []} for name in PATHS}
    config_folder.tasks["chat"]["policy"] = policy(escalate=True)
    with pytest.raises(ConfigError, match="task 'chat': its policy 'predicted' needs validators"):
        load_config(config_folder.write())
    config_folder.tasks["chat"]["validators"] = [{"complete": True}]
    assert load_config(config_folder.write()).tasks.tasks["chat"].policy.paths == ("small", "large")


def test_a_default_policy_without_tasks_is_refused(config_folder: ConfigFolder) -> None:
    config_folder.tasks, config_folder.rest_of_tasks["default_policy"] = {}, {"fixed": "handbook"}
    config_folder.paths.pop("triage_few_shot")
    with pytest.raises(ConfigError, match="default_policy is for requests that fit no task, and there are no tasks"):
        load_config(config_folder.write())
