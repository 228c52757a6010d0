"""`pointsman classifier fit|lint|wrappers` and `pointsman replay`, which run the offline tools of `tools/lab`."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pointsman_cli.up.plan import server_binary
from pointsman_embedding.prepare import prepare
from redis import Redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from tests.gateway.doubles.exports import ExportHarness
from tests.ports import free_port

Cli = Callable[..., Any]

MODEL = Path(__file__).parents[2] / ".pointsman" / "models" / "minilm"
HELPDESK = Path(__file__).parents[2] / "examples" / "helpdesk"


@pytest.fixture(scope="session")
def model() -> Path:
    prepare(MODEL)
    return MODEL


@pytest.fixture
def data_dir(tmp_path: Path, model: Path) -> Path:
    """A data directory with the embedding model."""
    models = tmp_path / ".pointsman" / "models"
    models.mkdir(parents=True)
    (models / "minilm").symlink_to(model)
    return tmp_path / ".pointsman"


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """Copies the help desk with fewer examples, so that they are embedded faster."""
    folder = shutil.copytree(HELPDESK, tmp_path / "example")
    for file in (folder / "config" / "tasks").iterdir():
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:20]))
    return folder


@pytest.fixture
def request_log(tmp_path: Path) -> Iterator[tuple[str, Redis]]:
    """Yields a Redis URL and a client of it."""
    port = free_port()
    program = [str(server_binary()), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path), "--save", ""]
    with subprocess.Popen(program, stdout=subprocess.DEVNULL) as server:
        url = f"redis://127.0.0.1:{port}/0"
        with Redis.from_url(url, retry=Retry(ConstantBackoff(0.05), 200)) as client:
            client.ping()
            yield url, client
        server.kill()


def test_a_classifier_is_trained_from_an_example_and_its_quality_is_shown(
    cli: Cli, data_dir: Path, example: Path, tmp_path: Path
) -> None:
    out = tmp_path / "helpdesk.artifact"

    outcome = cli("classifier", "fit", example, "--out", out, "--data-dir", data_dir)

    assert outcome.code == 0, outcome.err
    assert out.stat().st_size > 0
    for text in ("5 tasks, 100 examples", "out of fold: accuracy 0.", str(out), "policy_question"):
        assert text in outcome.out
    assert "embedding: 100 of 100" in outcome.err


def test_an_invalid_configuration_is_rejected_in_one_line(cli: Cli, data_dir: Path, example: Path) -> None:
    folder = example / "config"
    (folder / "tasks" / "chat.jsonl").write_text('{"text": "hi"}\n')

    outcome = cli("classifier", "fit", folder, "--data-dir", data_dir)

    assert outcome.code == 1
    assert outcome.err.splitlines()[-1].startswith("error: task 'chat' has 1 example")
    assert outcome.out == ""


@pytest.mark.parametrize("command", [("classifier", "fit"), ("classifier", "lint"), ("replay", "--redis", "x")])
def test_a_folder_that_is_neither_example_nor_configuration_is_rejected(
    cli: Cli, command: tuple[str, ...], tmp_path: Path
) -> None:
    outcome = cli(*command, tmp_path)

    assert outcome.code == 2
    assert "neither an example (no pointsman.yaml) nor a configuration (no tasks.yaml)" in outcome.err


def test_replay_needs_a_request_log(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("replay", HELPDESK, "--data-dir", tmp_path)

    assert outcome.code == 2
    assert "name the Redis with --redis, or a file with --from" in outcome.err


def test_without_a_request_log_the_examples_are_checked_nevertheless(cli: Cli, data_dir: Path, example: Path) -> None:
    outcome = cli("classifier", "lint", example, "--data-dir", data_dir, "--json")

    assert outcome.code == 0, outcome.err
    body = json.loads(outcome.out)
    assert body["request_log"] is None
    assert {confusion["task"] for confusion in body["confusions"]} <= {
        "branded_reply", "chat", "fare_sum", "policy_question", "triage",
    }  # fmt: skip


def test_a_replay_is_shown_and_fails_if_too_much_would_change(
    cli: Cli, data_dir: Path, example: Path, request_log: tuple[str, Redis]
) -> None:
    url, redis = request_log
    for name, path in (("d1", "small_talk"), ("d2", "handbook_answer")):
        redis.xadd("{pointsman}:decisions", {"decision": name, "entry": json.dumps(_entry(name, path))})
    command = ("replay", example, "--redis", url, "--data-dir", data_dir)

    outcome = cli(*command)
    assert outcome.code == 0, outcome.err
    for text in ("2 decisions of the last 24h", "1 of 2 would change (50.0 %)", "handbook_answer -> small_talk", "d2"):
        assert text in outcome.out
    assert "2 of 2 have no stored text: the recorded task is used" in outcome.out

    refused = cli(*command, "--fail-if-changed", "0.1", "--json")
    assert refused.code == 1
    assert json.loads(refused.out)["changed"] == 1
    assert refused.err.splitlines()[-1] == "error: 50.0 % of the decisions would change, more than 10.0 %"


def test_exported_records_are_replayed_as_those_in_redis(
    cli: Cli, data_dir: Path, example: Path, tmp_path: Path
) -> None:
    exports = ExportHarness(tmp_path)
    for name, path in (("d1", "small_talk"), ("d2", "handbook_answer")):
        entry = _entry(name, path) | {"unix_ms": round(time.time() * 1000)}
        exports.log.append("decisions", [json.dumps(entry) + "\t"])
    exports.log.close()
    exports.export()
    outcome = cli("replay", example, "--from", exports.files, "--data-dir", data_dir)
    assert outcome.code == 0, outcome.err
    for text in ("2 decisions of the last 24h", "1 of 2 would change (50.0 %)", "handbook_answer -> small_talk", "d2"):
        assert text in outcome.out
    outcome = cli("replay", example, "--from", exports.files, "--redis", "redis://127.0.0.1:1", "--data-dir", data_dir)
    assert (outcome.code, "give --redis or --from, not both" in outcome.err) == (2, True)


def _entry(name: str, path: str) -> dict[str, Any]:
    """Returns an entry as documented in docs/request_log.md: a greeting whose text was not stored."""
    return {
        "v": 1, "id": name, "unix_ms": 0, "revision": "g1", "task": "chat", "confidence": 0.9, "margin": 0.8,
        "in_distribution_score": 1.0, "stage": "static", "notes": [], "probabilities": [["chat", 0.9]], "path": path,
        "kind": "prompt", "fingerprint": "f", "reason": "policy:fixed", "considered": [], "expected_cost_usd": 1e-6,
        "model": "", "requested": "auto", "metadata": {}, "response_format": "", "inputs": "i", "user_digest": "",
        "text": "not stored", "messages": None, "user": None, "outcome": "routed", "usage": {}, "cost_usd": 0.0,
        "seconds": {}, "escalated_from": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    "command", [("classifier", "fit"), ("classifier", "lint"), ("classifier", "wrappers"), ("replay",)]
)
def test_each_command_has_help(cli: Cli, command: tuple[str, ...]) -> None:
    outcome = cli(*command, "--help")

    assert outcome.code == 0
    assert f"Usage: pointsman {' '.join(command)}" in outcome.out


def test_a_policy_is_learned_from_an_evaluation_and_printed(
    cli: Cli, data_dir: Path, example: Path, tmp_path: Path
) -> None:
    texts = [("lost_item", "I lost my bag on the train"), ("refund", "Please refund my ticket")]
    rows = [{"id": str(n), "text": f"{texts[n % 2][1]} {n}", "output": texts[n % 2][0]} for n in range(120)]
    answers: list[dict[str, Any]] = [
        {
            "row": str(n),
            "task": "triage",
            "path": path,
            "outcome": "ok",
            "score": score,
            "cost_parts_usd": {"prompt": usd},
        }
        for n in range(120)
        for path, score, usd in (("triage_adapter", float(n % 2), 1e-6), ("triage_few_shot", 1.0, 1e-5))
    ]
    for name, lines in (("rows.jsonl", rows), ("answers.jsonl", answers)):
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = ("--data", tmp_path / "rows.jsonl", "--answers", tmp_path / "answers.jsonl", "--data-dir", data_dir)

    outcome = cli("predict", "triage", "--config", example, "--quality", 0.95, *options, "--json")

    assert outcome.code == 0, outcome.err
    facts = json.loads(outcome.out)
    assert list(facts["policy"]["predicted"]["paths"]) == ["triage_adapter", "triage_few_shot"]
    assert facts["quality"] > 0.9
    assert facts["lower_bound"] > 0.02

    outcome = cli("predict", "triage", "--config", example, "--tolerance", 0.3, *options)
    assert (outcome.code, "--tolerance is replaced by --usd-per-wrong-answer" in outcome.err) == (2, True)
    for price in ("0", "nan", "inf"):
        outcome = cli("predict", "triage", "--config", example, "--usd-per-wrong-answer", price, *options)
        assert (outcome.code, "must be above 0 and finite" in outcome.err) == (2, True)
    outcome = cli("predict", "triage", "--config", example, *options[:2])
    assert (outcome.code, "by both --data and --answers, or --scores" in outcome.err) == (2, True)
    scores = "text,path,score,cost\n" + "".join(
        f"{rows[int(each['row'])]['text']},{each['path']},{each['score']},{each['cost_parts_usd']['prompt']}\n"
        for each in answers
    )
    (tmp_path / "scores.csv").write_text(scores)
    elsewhere = ("--scores", tmp_path / "scores.csv", "--data-dir", data_dir)
    outcome = cli("predict", "triage", "--config", example, "--quality", 0.95, *elsewhere, "--json")
    assert (outcome.code, json.loads(outcome.out)) == (0, facts)
    outcome = cli("predict", "none", "--config", example, *options)
    assert outcome.err.splitlines()[-1].startswith("error: there is no task 'none'; known: branded_reply, ")
    outcome = cli("predict", "triage", "triage", "--config", example, *options)
    assert outcome.err.splitlines()[-1] == "error: task 'triage' is named twice"
