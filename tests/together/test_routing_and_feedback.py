"""Routing, validation, the request log and learning with the real engine and a real Valkey."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import yaml
from pointsman.v1 import gateway_pb2, gateway_pb2_grpc

TRIAGE = "left my green umbrella on the 17.40 to Saltby Harbour yesterday, pls tell me u have it!!"


@pytest.fixture
def http(help_desk: Any) -> Any:
    with httpx.Client(base_url=help_desk.url, timeout=120) as client:
        yield client


def ask(http: httpx.Client, text: str, **more: Any) -> httpx.Response:
    body = {"model": "auto", "messages": [{"role": "user", "content": text}], **more}
    return http.post("/v1/chat/completions", json=body).raise_for_status()


def test_a_truncated_answer_escalates_once_and_both_attempts_are_charged(http: httpx.Client) -> None:
    cut = ask(http, TRIAGE, max_tokens=8)
    assert cut.headers["x-pointsman-reason"] == "escalated:complete"
    assert cut.headers["x-pointsman-path"] == "triage_few_shot"
    assert cut.json()["pointsman"]["escalated_from"] == "triage_adapter"
    whole = ask(http, TRIAGE)
    assert (whole.headers["x-pointsman-reason"], whole.headers["x-pointsman-path"]) == (
        "policy:escalate", "triage_adapter",
    )  # fmt: skip
    assert json.loads(whole.json()["choices"][0]["message"]["content"])["intent"] == "lost_item"
    alone = ask(http, TRIAGE, model="path:triage_few_shot", max_tokens=8).json()["usage"]
    assert cut.json()["usage"]["prompt_tokens"] == alone["prompt_tokens"] + whole.json()["usage"]["prompt_tokens"]


def test_an_edit_applies_at_once_and_log_probabilities_validate_an_answer(help_desk: Any, http: httpx.Client) -> None:
    file = help_desk.config / "tasks.yaml"
    as_it_was = file.read_text()
    tasks = yaml.safe_load(as_it_was)
    tasks["tasks"]["triage"]["validators"] = [{"mean_logprob": -0.000001}]
    before = http.get("/v1/configuration").json()["revision"]
    file.write_text(yaml.safe_dump(tasks))
    try:
        _until(lambda: http.get("/v1/configuration").json()["revision"] != before)
        judged = ask(http, TRIAGE, max_tokens=40)
        assert judged.headers["x-pointsman-reason"] == "escalated:mean_logprob"
        assert judged.json()["choices"][0]["logprobs"] is None  # requested by the judge, not by the client
    finally:
        file.write_text(as_it_was)
        _until(lambda: http.get("/v1/configuration").json()["revision"] == before)


def test_feedback_counts_once_over_http_and_grpc(help_desk: Any, http: httpx.Client) -> None:
    decision = ask(http, "hello there, how are you today?").headers["x-pointsman-decision-id"]
    first = http.post("/v1/feedback", json={"decision_id": decision, "rating": 1.0})
    assert (first.status_code, first.json()["stored"], first.json()["known_already"]) == (200, "request_log", False)
    with grpc.insecure_channel(help_desk.grpc) as channel:
        stub = gateway_pb2_grpc.GatewayStub(channel)
        again = stub.Feedback(gateway_pb2.FeedbackRequest(decision_id=decision, rating=1.0), timeout=10)
        assert again.known_already
        with pytest.raises(grpc.RpcError) as refused:
            stub.Feedback(gateway_pb2.FeedbackRequest(decision_id="dec_none", rating=1.0), timeout=10)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_replay_with_the_same_configuration_changes_nothing(help_desk: Any, http: httpx.Client) -> None:
    for text in (TRIAGE, "Do I have to reserve a space for my bicycle?", "Tell me of the moons of Jupiter"):
        http.post("/v1/route", json={"model": "auto", "messages": [{"role": "user", "content": text}]})
    output = _pointsman(help_desk, "replay", str(help_desk.config), "--redis", help_desk.run["redis_url"], "--json")
    facts = json.loads(output)
    assert facts["decisions"] >= 3
    assert facts["changed"] == 0


def _pointsman(help_desk: Any, *arguments: str) -> str:
    command = [
        str(Path(sys.executable).parent / "pointsman"),
        *arguments,
        "--data-dir",
        str(help_desk.config.parents[1]),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _until(holds: Callable[[], bool]) -> None:
    async def look() -> None:
        async with asyncio.timeout(30):
            while not holds():  # noqa: ASYNC110  # the condition is another process's
                await asyncio.sleep(0.05)

    asyncio.run(look())
