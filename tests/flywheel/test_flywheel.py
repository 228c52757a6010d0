"""The retraining loop: feedback becomes a serving adapter, and an adapter that was trained on poisoned feedback is
rejected."""

import asyncio
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.flywheel.company import Company, running
from tests.flywheel.messages import Message, deciding, poisoned, traffic
from tests.running_example import ROOT

MAX_RUN_SECONDS = 1200
"""Time limit of one run, on two shared cores."""


@dataclass(frozen=True)
class Turn:
    """The result of one run of `pointsman retrain`."""

    code: int
    state: dict[str, Any]
    lines: str

    @property
    def version(self) -> str:
        return str(self.state["steps"]["train"]["facts"]["version"])

    @property
    def examination(self) -> dict[str, Any]:
        found: dict[str, Any] = self.state["steps"]["evaluate"]["facts"]["examination"]
        return found


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Company]:
    with running(tmp_path_factory.mktemp("flywheel")) as company:
        yield company


@pytest.fixture(scope="module")
def decisions(company: Company) -> dict[str, Message]:
    """Sends every message once; returns the decision of each answer."""
    return asyncio.run(asked(company, traffic()))


@pytest.fixture(scope="module")
def first(company: Company, decisions: dict[str, Message]) -> Turn:
    """The first run, after experts have given the correct answer for each message."""
    say(company, decisions, lambda message: message.right)
    return turn(company)


async def asked(company: Company, messages: Sequence[Message]) -> dict[str, Message]:
    """Sends the messages as many different users, so that a canary gets its share; returns answers by decision."""
    decided, waiting = {}, iter(enumerate(messages))
    async with httpx.AsyncClient(base_url=company.url, timeout=120) as client:

        async def ask_on() -> None:
            for number, message in waiting:
                body = {"model": "auto", "messages": [{"role": "user", "content": message.text}], "user": f"u{number}"}
                answer = await client.post("/v1/chat/completions", json={**body, "metadata": {"source": "inbox"}})
                assert answer.status_code == 200, answer.text
                decided[answer.headers["x-pointsman-decision-id"]] = message

        await asyncio.gather(*(ask_on() for _ in range(4)))
    return decided


def say(company: Company, decisions: dict[str, Message], right: Callable[[Message], str]) -> None:
    with httpx.Client(base_url=company.url, timeout=60) as client:
        for decision, message in decisions.items():
            response = client.post("/v1/feedback", json={"decision_id": decision, "right_answer": right(message)})
            assert response.status_code == 200, response.text


def turn(company: Company) -> Turn:
    """Runs `pointsman retrain` to its end, with traffic as soon as there is a canary."""
    log = company.home / "retrain.log"
    with (
        log.open("w") as lines,
        subprocess.Popen(company.command("retrain", "sort"), stdout=lines, stderr=lines, cwd=ROOT) as run,
    ):
        deadline = time.monotonic() + MAX_RUN_SECONDS
        try:
            while run.poll() is None:
                assert time.monotonic() < deadline, log.read_text()
                if canary_is_out(company):
                    asyncio.run(asked(company, traffic()[::4]))
                time.sleep(0.5)
        finally:
            run.kill()
    return Turn(run.returncode, company.tell("retrain", "sort", "--status"), log.read_text())


def canary_is_out(company: Company) -> bool:
    runs = sorted((company.home / "retrain" / "sort").glob("*/state.json"))
    return bool(runs) and bool(json.loads(runs[-1].read_text())["steps"]["canary"]["facts"].get("set"))


def aliases(company: Company) -> dict[str, str]:
    return {one["alias"]: one["version"] for one in company.tell("adapters", "list", "sort")["aliases"]}


async def share_right(company: Company) -> float:
    """Returns the share of evaluation messages that are answered correctly through the gateway."""
    right = 0
    async with httpx.AsyncClient(base_url=company.url, timeout=120) as client:
        for message in deciding():
            body = {"model": "auto", "messages": [{"role": "user", "content": message.text}]}
            answer = await client.post("/v1/chat/completions", json={**body, "metadata": {"source": "inbox"}})
            right += answer.json()["choices"][0]["message"]["content"].strip() == message.right
    return right / len(deciding())


def test_feedback_leads_to_a_serving_version(company: Company, first: Turn) -> None:
    assert (first.code, first.state["outcome"]) == (0, "promoted"), first.lines
    steps = first.state["steps"]
    assert [step["status"] for step in steps.values()] == ["done"] * 5
    assert steps["data"]["facts"]["sources"] == {"expert": steps["data"]["facts"]["counts"]["train"]}
    assert first.examination["gain"]["low"] > 0.1
    assert steps["canary"]["facts"]["requests"] >= 8
    assert aliases(company) == {"sort@prod": first.version}
    assert asyncio.run(share_right(company)) > 0.8


def test_a_version_names_its_training_data(company: Company, first: Turn) -> None:
    data = first.state["steps"]["data"]["facts"]
    version = company.tell("adapters", "show", first.version)
    assert version["facts"]["data_set"] == f"sort/{data['name']}"
    assert version["training_data_sha256"] == data["digests"]["train.jsonl"]
    manifest = json.loads((Path(data["folder"]) / "manifest.json").read_text())
    assert len(manifest["decisions"]["train"]) == data["counts"]["train"]


def test_poisoned_feedback_leads_to_a_refused_version(
    company: Company, first: Turn, decisions: dict[str, Message]
) -> None:
    say(company, decisions, lambda message: poisoned(message.desk))
    second = turn(company)
    assert (second.code, second.state["outcome"]) == (3, "refused"), second.lines
    assert "answered worse than now" in second.state["reason"]
    assert second.state["steps"]["data"]["facts"]["name"] != first.state["steps"]["data"]["facts"]["name"]
    retired = company.tell("adapters", "show", second.version)
    assert retired["state"] == "retired"
    (change,) = [
        change
        for change in company.tell("adapters", "history", "sort")
        if change["kind"] == "retired" and change["subject"] == second.version
    ]
    assert change["reason"] == second.state["reason"][: len(change["reason"])]
    assert aliases(company) == {"sort@prod": first.version}
    assert asyncio.run(share_right(company)) > 0.8
