"""The policy `predicted`, and how `pointsman predict` learns its options from an evaluation and from traffic."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pointsman_embedding import MiniLM
from pointsman_gateway.bootstrap import to_path
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import load_config
from pointsman_gateway.config.tasks_file import RequestLogConfig
from pointsman_gateway.domain import Feedback, Message, PathEvidence, Request, Vector
from pointsman_gateway.extensions import Candidate
from pointsman_gateway.redaction import Redaction
from pointsman_gateway.request_log.evidence import EvidenceKey, evidence_key
from pointsman_gateway.routing.predicted import Predicted, PredictedOptions, encode_weights
from pointsman_gateway.shadow.budget import ShadowStore
from pointsman_gateway.shadow.pair import PairScores
from pointsman_lab.prediction.evaluation import read_evaluation, to_evaluation
from pointsman_lab.request_log import RatedRequest
from pointsman_servicekit.bounded_redis import open_redis
from pydantic import ValidationError

from tests.gateway.doubles.api_clients import HttpClient
from tests.gateway.doubles.config_folder import IN_TRIAGE, ConfigFolder
from tests.gateway.doubles.engine import answer
from tests.gateway.doubles.gateway import TRIAGE, Neighbours, open_http_client
from tests.gateway.doubles.process_gateway import process_gateway
from tests.gateway.doubles.request_logs import RequestLogHarness, decision, receipt
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import found


def options(small: Sequence[float], large: Sequence[float], usd_per_wrong_answer: float = 0.1) -> dict[str, Any]:
    """Returns the policy's options with these weights of the two paths; their mean qualities are 0.4 and 0.9."""
    paths = {
        name: {"mean": mean, "bias": 0.0, "weights": encode_weights(np.array(weights))}
        for name, mean, weights in (("small", 0.4, small), ("large", 0.9, large))
    }
    return {"encoder": "tiny", "usd_per_wrong_answer": usd_per_wrong_answer, "paths": paths}


@dataclass
class Context:
    """Implements `PolicyContext` with a test's values."""

    vector: Vector | None
    away: Mapping[str, str] = field(default_factory=dict)
    task: str = "triage"
    request: Request = field(default_factory=lambda: Request("auto", ()))
    ratings: Mapping[str, float] = field(default_factory=dict)
    where: float = 0.5
    answers: float = 0.0
    task_probabilities: Mapping[str, float] = field(default_factory=dict)

    def candidates(self, paths: Sequence[str]) -> list[Candidate]:
        costs = {"small": 0.001, "large": 0.01}
        return [
            Candidate(name, PathEvidence(self.ratings.get(name, 0.0), answers=self.answers), costs[name])
            for name in paths
        ]

    def unavailable(self, paths: Sequence[str]) -> Mapping[str, str]:
        return self.away

    def position(self, purpose: str = "") -> float:
        return self.where


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
def test_the_path_with_the_highest_expected_utility_is_chosen(
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
    ("where", "ratings", "away", "path"),
    [
        (0.04, {"large": 99}, {}, "large"),
        (0.06, {"large": 99}, {}, "small"),
        (0.04, {"large": 100}, {}, "small"),
        (0.04, {}, {"large": "no engine"}, "small"),
    ],
)
def test_paths_with_too_few_ratings_get_the_exploration_share(
    where: float, ratings: dict[str, float], away: dict[str, str], path: str
) -> None:
    policy = Predicted(PredictedOptions.model_validate(options([9, 0], [9, 0]) | {"exploration_rate": 0.05}))
    context = Context(np.array([1, 0], np.float32), away, ratings=ratings, where=where)
    plan = policy.plan(context)
    assert plan.paths[0] == path
    assert policy.preview(context).paths[0] == "small"
    if path == "large":
        assert (plan.reason, plan.explanations["large"]) == ("policy:trial", "on trial; 99 of 100 ratings")


@pytest.mark.parametrize(
    ("vector", "characters", "answers", "path", "usd"),
    [
        ([-1, 0], 100, 9, "large", 0.01),
        ([-1, 0], 1_000, 9, "small", 0.1),  # 0.09 dollars more for 0.93 more quality
        ([-1, 0], 1_000, 0, "large", 0.01),  # the estimate is for this request already
        ([0, 1], 100, 9, "small", 0.2),
        (None, 1_000, 9, "large", 0.01),
    ],
)
def test_a_requests_own_length_and_kind_decide_what_it_costs(
    vector: list[float] | None, characters: int, answers: float, path: str, usd: float
) -> None:
    learned = options([3, 0], [0, 0], usd_per_wrong_answer=0.09)
    cost = {"cost_bias": -np.log(100), "cost_length_weight": 1.0, "cost_weights": encode_weights(np.log([1, 20]))}
    learned["paths"]["large"] |= {"bias": 4.0, **cost}
    policy = Predicted(PredictedOptions.model_validate(learned))
    asked = Request("auto", (Message("user", "a" * characters),))
    context = Context(None if vector is None else np.array(vector, np.float32), request=asked, answers=answers)
    plan = policy.plan(context)
    assert plan.paths[0] == path
    quoted = plan.explanations["large"].split("$")[1].removesuffix(" per 1,000")
    assert float(quoted) == pytest.approx(1000 * usd, rel=1e-3)
    assert plan.worth_usd["large"] == pytest.approx(0.09 * (0.9 if vector is None else 0.982), abs=1e-4)


def test_a_tolerance_is_refused_with_what_replaces_it() -> None:
    with pytest.raises(ValidationError, match="tolerance is replaced by usd_per_wrong_answer"):
        PredictedOptions.model_validate(options([1, 0], [0, 0]) | {"tolerance": 0.1})


@pytest.mark.parametrize(
    ("small", "message"),
    [([1, 2, 3], "weights of different length"), ([float("nan"), 1], "not finite numbers")],
)
def test_options_that_cannot_be_used_are_refused(small: list[float], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PredictedOptions.model_validate(options(small, [0, 0]))


def write_evaluation(folder: Path, rows: int = 120) -> tuple[Path, Path]:
    data = [{"id": f"r{n}", "text": f"question {n}", "output": "x"} for n in range(rows)]
    answers: list[dict[str, Any]] = [{"evaluation": 1}]
    answers += [
        {
            "row": f"r{n}",
            "task": "triage",
            "path": path,
            "outcome": "ok",
            "score": score,
            "cost_parts_usd": {"prompt": usd, "done": usd},
        }
        for n in range(rows)
        for path, score, usd in (("small", float(n % 2), 0.001), ("large", 1.0, 0.01), ("auto", 0.5, 0.0))
    ]
    files = folder / "rows.jsonl", folder / "answers.jsonl"
    for file, lines in zip(files, (data, answers), strict=True):
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return files


def test_an_evaluation_is_read_from_its_data_set_and_answers(tmp_path: Path) -> None:
    found = read_evaluation(*write_evaluation(tmp_path), ("triage",))
    assert found.paths == ("small", "large")
    assert (found.texts[1], found.scores[1].tolist()) == ("question 1", [1.0, 1.0])
    np.testing.assert_allclose(found.mean_usd, [0.002, 0.02])


@pytest.mark.parametrize("row", [{"id": "x"}, {"messages": []}, {"messages": [{"role": "user"}]}, [], 5])
def test_a_row_of_an_evaluation_without_a_text_is_named(tmp_path: Path, row: object) -> None:
    rows, answers = write_evaluation(tmp_path)
    rows.write_text(rows.read_text() + json.dumps(row) + "\n")
    with pytest.raises(ConfigError, match=r'rows\.jsonl, row 121 has neither a "text" nor "messages" with a content'):
        read_evaluation(rows, answers, ("triage",))


def test_rows_with_the_same_text_are_one_and_failed_answers_are_left_out(tmp_path: Path) -> None:
    rows, answers = write_evaluation(tmp_path)
    rows.write_text(rows.read_text().replace('"question 1"', '"question 0"'))
    first, small, *others = answers.read_text().splitlines()
    failed = {**json.loads(small), "outcome": "engine_unavailable", "score": 0.0, "cost_parts_usd": {}}
    again = [json.dumps({**failed, "row": row}) for row in ("r0", "r119")]
    kept = [line for line in others if not ('"r119"' in line and '"small"' in line)]
    answers.write_text("\n".join([first, again[0], small, *kept, again[1]]))  # r0 was asked again, r119 was not
    found = read_evaluation(rows, answers, ("triage",))
    assert (len(found.texts), found.texts[:2]) == (118, ["question 0", "question 2"])
    assert found.scores[0].tolist() == [0.5, 1.0]
    np.testing.assert_allclose(found.mean_usd, [0.002, 0.02])


def test_too_little_evidence_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="all paths answered 99 rows of task 'triage'; 100 are needed"):
        read_evaluation(*write_evaluation(tmp_path, 99), ("triage",))
    with pytest.raises(ConfigError, match="has answers of 0 paths to task 'chat'; two or more are compared"):
        read_evaluation(*write_evaluation(tmp_path), ("chat",))


LATE = "My train on Friday was 70 minutes late, I claim compensation"


async def test_the_gateway_chooses_for_each_request(neighbours: Neighbours, minilm: MiniLM) -> None:
    lost, late = minilm.embed([IN_TRIAGE, LATE])
    towards = lost - late
    halfway = float(towards @ (lost + late) / 2)
    paths = {
        "triage_adapter": {"mean": 0.5, "bias": -30 * halfway, "weights": encode_weights(30 * towards)},
        "triage_few_shot": {"mean": 0.9, "bias": 4.0, "weights": encode_weights(np.zeros(len(lost)))},
    }
    policy = {"predicted": {"encoder": minilm.fingerprint, "usd_per_wrong_answer": 0.1, "paths": paths}}
    neighbours.config.tasks["triage"] |= {"policy": policy, "fallback": []}
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        for text, path in ((IN_TRIAGE, "triage_adapter"), (LATE, "triage_few_shot")):
            body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
            decision = (await http.post("/v1/route", json=body)).raise_for_status().json()
            assert (decision["path"], decision["reason"]) == (path, "policy:predicted")
            answered = (await http.post("/v1/chat/completions", json=body)).raise_for_status().json()["pointsman"]
            assert answered["path"] == path


async def test_weights_for_another_embedding_model_are_refused(neighbours: Neighbours) -> None:
    paths = dict(zip(("triage_adapter", "triage_few_shot"), options([1], [1])["paths"].values(), strict=True))
    policy = {"predicted": {"encoder": "another", "usd_per_wrong_answer": 1, "paths": paths}}
    neighbours.config.tasks["triage"] |= {"policy": policy, "fallback": []}
    with pytest.raises(ConfigError, match=r"weights are for the embedding model another, but minilm.* is in use"):
        async with neighbours.gateway():
            pass
    assert load_config(neighbours.config.folder).tasks.tasks["triage"].policy.paths == tuple(paths)


LOST, REFUND = "I lost my bag on the train to Saltby, please find it", "Please pay back my ticket for booking AB12"


@dataclass(frozen=True)
class Commands:
    """Runs `pointsman` with the configuration of a gateway."""

    folder: Path
    data_dir: Path

    async def run(self, *arguments: object) -> str:
        """Runs the command, and returns its standard output."""
        program = [sys.executable, "-m", "pointsman_cli", *map(str, arguments), "--data-dir", str(self.data_dir)]
        process = await asyncio.create_subprocess_exec(*program, stdout=PIPE, stderr=PIPE)
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        return out.decode()

    async def predict(self, *arguments: object) -> dict[str, Any]:
        options = ("--config", self.folder, "--quality", 0.95, "--json")
        facts: dict[str, Any] = json.loads(await self.run("predict", "triage", *options, *arguments))
        return facts


def only_lost_items(body: Mapping[str, Any]) -> Any:
    """Answers like a cheap adapter that knows lost items only, and a base model that answers everything well."""
    is_lost = "lost" in body["messages"][-1]["content"]
    if "@" in body["model"]:
        return answer("lost_item" if is_lost else "I cannot tell.", prompt_tokens=10)
    return answer("lost_item" if is_lost else "refund", prompt_tokens=100)


async def test_a_running_gateway_chooses_by_what_an_evaluation_has_taught(
    neighbours: Neighbours, model_folder: Path, tmp_path: Path
) -> None:
    await neighbours.ready()
    neighbours.engine.script = only_lost_items
    neighbours.config.models["engines"]["local"]["lora_server"] = neighbours.lora_server.address
    paths = ["triage_few_shot", "triage_adapter"]
    terms = {"paths": paths, "quality_floor": 0.9, "exploration_rate": 0}
    neighbours.config.tasks["triage"] |= {"metric": {"exact": True}, "policy": {"best_value": terms}, "fallback": []}
    rows, answers = tmp_path / "rows.jsonl", tmp_path / "answers.jsonl"
    data = [((LOST, "lost_item"), (REFUND, "refund"))[n % 2] for n in range(120)]
    rows.write_text(
        "".join(json.dumps({"text": f"{text} {n}", "output": label}) + "\n" for n, (text, label) in enumerate(data))
    )
    folder = neighbours.config.write()
    commands = Commands(folder, model_folder.parents[1])
    settings = {"config": folder, "embedding_model": model_folder, "reload_seconds": 0.1, **neighbours.settings}
    async with process_gateway(tmp_path, **settings) as gateway, httpx.AsyncClient(base_url=gateway.url) as client:
        asked = ("--task", "triage", "--paths", ",".join(paths), "--answers", answers)
        await commands.run("eval", rows, "--url", gateway.url, *asked)
        learned = await commands.predict("--data", rows, "--answers", answers)
        assert learned["lower_bound"] > 0.02

        neighbours.config.tasks["triage"]["policy"] = learned["policy"]
        neighbours.config.write()
        api = HttpClient(client)

        async def reloaded() -> bool:
            return bool((await api.route(REFUND))["reason"] == "policy:predicted")

        assert await found(reloaded)
        for text, path in ((LOST, "triage_adapter"), (REFUND, "triage_few_shot"), (LOST, "triage_adapter")):
            assert (await api.ask(text)).path == path


async def test_predictions_are_learned_from_shadow_requests_and_ratings(
    harness: RequestLogHarness, valkey: Valkey, config_folder: ConfigFolder, model_folder: Path
) -> None:
    config_folder.tasks["triage"]["shadow"] = {"paths": ["triage_few_shot"], "usd_per_day": 1}
    config = load_config(config_folder.write())
    paths = {name: to_path(name, config.paths.paths[name], config) for name in ("triage_adapter", "triage_few_shot")}
    commands = Commands(config.folder, model_folder.parents[1])
    harness.store.config = RequestLogConfig(store_messages=True)
    async with open_redis(valkey.url, lambda up: None) as redis:
        shadows = ShadowStore(redis, Redaction())
        for number in range(120):
            ask = Request("auto", (Message("user", f"{LOST if number % 2 else REFUND} {number}"),))
            chosen, other = (
                receipt(decision(f"d{number}", "triage", path), cost_usd=usd, model=model)
                for path, usd, model in zip(paths.values(), (1e-6, 1e-5), (TRIAGE, "tiny"), strict=True)
            )
            harness.recorder.note(ask, chosen.decision, chosen)
            harness.board.count_answer(other)
            scores = ((evidence_key(chosen), float(number % 2)), (evidence_key(other), 1.0))
            shadows.keep_scores(PairScores(f"d{number}", scores))
        await harness.written()
        await shadows.write(lambda decision_id: asyncio.sleep(0))
    await harness.store.add_feedback(Feedback("d0", id="f", rating=0.75), 0, "call")

    live = ("--live", "--redis", valkey.url)
    learned = await commands.predict(*live)
    assert (learned["rows"], learned["rated"]) == (120, {"triage_adapter": 120, "triage_few_shot": 120})
    assert learned["policy"]["predicted"]["paths"]["triage_adapter"]["mean"] == pytest.approx(61.75 / 122, abs=1e-4)
    assert learned["lower_bound"] > 0.02

    with pytest.raises(AssertionError, match=r"too few requests are rated \(triage_adapter 0, triage_few_shot 0\)"):
        await commands.predict(*live, "--since", "0s")


def test_requests_with_the_same_text_are_one_row() -> None:
    keys = [EvidenceKey("triage", name, "f", "") for name in ("small", "large")]
    asked = [RatedRequest({keys[0]: rating, keys[1]: 1.0}, "Hello") for rating in (0.0, 0.5)]
    asked += [RatedRequest({keys[0]: 1.0}, str(n)) for n in range(2)] + [RatedRequest({keys[1]: 0.0}, "")]
    known = dict.fromkeys(keys, PathEvidence(mean_cost_usd=1e-6))
    found = to_evaluation(asked, known, min_ratings=1)
    assert list(found.texts) == ["Hello", "0", "1"]
    np.testing.assert_array_equal(found.scores, [[0.25, 1], [1, np.nan], [1, np.nan]])
    with pytest.raises(ConfigError, match=r"\(small 3, large 1\); 1 more have no stored text \(request_log.store_mess"):
        to_evaluation(asked, known, min_ratings=2)
    with pytest.raises(ConfigError, match="the cost of path 'small' is not known"):
        to_evaluation(asked, dict.fromkeys(keys, PathEvidence()), min_ratings=1)
