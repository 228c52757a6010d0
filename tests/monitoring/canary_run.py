"""A canary that is worse, as the dashboards show it: `python -m tests.monitoring.canary_run PANELS.json`.

Services, Valkey and Prometheus are real. The engine is a double: the current version answers each message with its
label, the canary with a sentence, which the task's validators reject until the canary is rolled back.
"""

import asyncio
import contextlib
import json
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from deploy.grafana import generate
from tests.monitoring.monitored_run import VARIABLES, Shown
from tests.monitoring.test_monitoring import _drawable
from tests.monitoring.watch import Prometheus, found, watching
from tests.running_example import EXAMPLE, POINTSMAN, ROOT, RunningExample, run_example

ENGINE = ROOT / "tests" / "quickstart" / "journey_engine.py"
CLIENTS = 4
CALM_SECONDS = 30.0
"""Seconds of load before the canary starts and after it has ended."""
MAX_SECONDS = 120.0
"""Maximum number of seconds from the start of the canary to its end."""
WORSE = "I am sorry to hear that."


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        panels = asyncio.run(record(Path(folder)))
    Path(sys.argv[1]).write_text(json.dumps(panels))


async def record(folder: Path) -> list[dict[str, Any]]:
    """Returns the panels of the run in `folder`, an empty one."""
    home, watch = folder / "home", folder / "watch"
    watch.mkdir()
    rows = [json.loads(line) for line in (EXAMPLE / "heldout" / "triage.jsonl").read_text().splitlines()]
    example = Path(shutil.copytree(EXAMPLE, home / "helpdesk"))
    right, wrong = folder / "right.json", folder / "wrong.json"
    right.write_text(json.dumps({row["text"]: json.dumps(row["output"]) for row in rows}))
    wrong.write_text(json.dumps({row["text"]: WORSE for row in rows}))
    worse = Path(shutil.copytree(example / "adapters" / "triage", folder / "worse"))
    let_answer(example / "adapters" / "triage", right)
    let_answer(worse, wrong)
    settings = {"POINTSMAN_ENGINE_PYTHON": str(double(folder)), "POINTSMAN_LORA_SMOKE_TEST": "off"}
    with run_example(example, home, settings) as desk:
        async with watching(watch, targets_of(desk)) as prometheus:
            started = time.time()
            load = asyncio.create_task(ask([row["text"] for row in rows], desk.url))
            await asyncio.sleep(CALM_SECONDS)
            version = (await asyncio.to_thread(pointsman, home, "register", "triage", str(worse))).split()[-1]
            await asyncio.to_thread(pointsman, home, "canary", "triage@prod", version, "--weight", "0.3", "--force")
            await found(lambda: rolled_back(prometheus), MAX_SECONDS, "a canary that is rolled back")
            await asyncio.sleep(CALM_SECONDS)
            load.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await load
            return [_drawable(shown) for shown in await read(prometheus, started, time.time())]


def let_answer(adapter: Path, answers: Path) -> None:
    """Makes the double answer as the JSON file `answers` says; another `lora_alpha` makes another version."""
    config = adapter / "adapter_config.json"
    read = json.loads(config.read_text())
    lora_alpha = read["lora_alpha"] - (answers.stem == "wrong")
    config.write_text(json.dumps({**read, "lora_alpha": lora_alpha, "answers": str(answers)}))


def double(folder: Path) -> Path:
    """Returns a program that stands for Python in the engine's environment."""
    program = folder / "engine-python"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{ENGINE}" "{folder}" "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


def targets_of(desk: RunningExample) -> dict[str, str]:
    jobs = {"gateway": "gateway_metrics", "retriever": "retriever_metrics", "lora-server": "lora_server_metrics"}
    return {job: desk.run[name].removeprefix("http://").removesuffix("/metrics") for job, name in jobs.items()}


def pointsman(home: Path, *arguments: str) -> str:
    command = [str(POINTSMAN), "adapters", *arguments, "--data-dir", str(home)]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


async def ask(texts: list[str], url: str) -> None:
    """Sends messages of different users until it is cancelled."""

    async def ask_on(number: int) -> None:
        while True:
            body = {"model": "auto", "user": f"user-{number}", "metadata": {"source": "inbox"}}
            messages = [{"role": "user", "content": texts[number % len(texts)]}]
            await client.post("/v1/chat/completions", json={**body, "messages": messages})
            number += CLIENTS
            await asyncio.sleep(0.4)

    async with httpx.AsyncClient(base_url=url, timeout=60) as client, asyncio.TaskGroup() as clients:
        for number in range(CLIENTS):
            clients.create_task(ask_on(number))


async def rolled_back(prometheus: Prometheus) -> bool:
    series = await prometheus.instant("sum(pointsman_lora_canary_rollbacks_total)", time.time())
    return bool(series) and series[0]["points"][-1][1] > 0


async def read(prometheus: Prometheus, started: float, ended: float) -> list[Shown]:
    shown = []
    for panel in generate.panels():
        asked = {
            target.letter: await prometheus.range(generate.substituted(target.expr, VARIABLES), started, ended)
            for target in panel.targets
        }
        shown.append(Shown(panel, asked))
    return shown


if __name__ == "__main__":
    main()
