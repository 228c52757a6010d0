"""Fixtures for certificates: a real gateway with a scripted engine, an evaluation of it, and the command line."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pointsman_cli.advise.costs import CostTerms
from pointsman_cli.advise.recommendation import Requirements
from pointsman_cli.certificate.issue import Validity, make_statement
from pointsman_cli.certificate.statement import to_json, write_certificate
from pointsman_cli.certificate.task_verdicts import VerdictTerms
from pointsman_cli.certificate.verification import ConfigurationSource, fetch_catalog
from pointsman_cli.eval.command import evaluated
from pointsman_cli.eval.dataset import read_dataset
from pointsman_cli.eval.plan import Selection
from pointsman_cli.eval.report import read_report, write_report
from pointsman_cli.eval.statistics import EvalSettings
from pointsman_cli.gateway_http import open_client

from tests.gateway.doubles.config_folder import ConfigFolder
from tests.gateway.doubles.engine import ScriptedEngine, answer, running_engine
from tests.gateway.doubles.gateway import TRIAGE, Gateway, Neighbours
from tests.gateway.doubles.lora_server import running_lora_server
from tests.gateway.doubles.retriever import running_retriever

ROWS = [
    {"text": f"message {number}", "output": {"intent": "refund" if number % 2 else "lost_item"}, "task": "triage"}
    for number in range(40)
]
"""Rows that the adapter answers correctly; the few-shot path answers every second one correctly, and the default path
none."""

TERMS = VerdictTerms(Requirements(), CostTerms(training={"triage": 0.5}), 0.1, 0.8)


@dataclass(frozen=True)
class Ended:
    code: int | None
    out: str
    err: str


def as_trained(body: Mapping[str, Any]) -> Any:
    text = body["messages"][-1]["content"]
    number = next((place for place, row in enumerate(ROWS) if row["text"] == text), 0)
    right = json.dumps(ROWS[number]["output"])
    if body["model"] == TRIAGE:
        return answer(right, prompt_tokens=10)
    if any(message["role"] == "assistant" for message in body["messages"]):
        return answer(right if number % 2 else "Here you are.", prompt_tokens=100)
    return answer("I do", "n't know.", prompt_tokens=30)


@pytest.fixture
async def neighbours(tmp_path: Path, model_folder: Path) -> AsyncIterator[Neighbours]:
    config = ConfigFolder(tmp_path / "config")
    config.tasks["triage"]["metric"] = {"exact": True}
    async with running_engine() as engine, running_lora_server() as lora_server, running_retriever() as retriever:
        engine.script = as_trained
        yield Neighbours(engine, lora_server, retriever, config, {"embedding_model": model_folder})


@pytest.fixture
async def gateway(neighbours: Neighbours) -> AsyncIterator[Gateway]:
    await neighbours.ready()
    async with neighbours.gateway() as gateway:
        yield gateway


@pytest.fixture
def engine(neighbours: Neighbours) -> ScriptedEngine:
    return neighbours.engine


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


@pytest.fixture
async def report(gateway: Gateway, data: Path) -> Path:
    """Returns the file of an evaluation report on `data`."""
    client, settings = open_client(gateway.url, {"cache-control": "no-store"}), EvalSettings(8, 0.95, 0)
    found = await evaluated(client, read_dataset(data, ""), Selection(), data.parent / "answers.jsonl", False, settings)
    write_report(found, data.parent / "report.json")
    return data.parent / "report.json"


@pytest.fixture
async def certificate(gateway: Gateway, report: Path, data: Path) -> Path:
    """Returns the file of an unsigned certificate for `report`."""
    catalog = await fetch_catalog(ConfigurationSource(gateway.url, ""))
    statement = make_statement(
        read_report(report), catalog, TERMS, Validity(90, 0.2), adapters=(), issued=datetime.now(UTC)
    )
    write_certificate(to_json(statement), None, data.parent / "certificate.json")
    return data.parent / "certificate.json"


@pytest.fixture
def command() -> Callable[..., Awaitable[Ended]]:
    """Runs a command line in its own process, with the gateway in this one."""

    async def run(*arguments: object) -> Ended:
        program = [sys.executable, "-m", "pointsman_cli", *map(str, arguments)]
        process = await asyncio.create_subprocess_exec(*program, stdout=PIPE, stderr=PIPE, env=dict(os.environ))
        out, err = await process.communicate()
        return Ended(process.returncode, out.decode(), err.decode())

    return run
