"""The commands of the page for one machine, with `pointsman up` and a double of the engine."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import httpx

from tests.gateway.doubles.receipts import receipts_once
from tests.lora_server.server_process import engine_python
from tests.restore.installation import commands_of
from tests.running_example import EXAMPLE, POINTSMAN, RunningExample, run_example

QUESTION = {"model": "auto", "messages": [{"role": "user", "content": "May my dog come along?"}], "max_tokens": 8}
LISTS = (("keys", "list"), ("keys", "usage"), ("adapters", "list"), ("retriever", "list"))


def up(home: Path, example: Path, environment: Mapping[str, str]) -> AbstractContextManager[RunningExample]:
    return run_example(example, home, environment)


def ask(running: RunningExample) -> str:
    """Sends a request, and returns the id of its decision."""
    answer = httpx.post(f"{running.url}/v1/chat/completions", json=QUESTION, timeout=60, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-pointsman-decision-id"]


def pointsman(home: Path, *words: str) -> str:
    """Runs the command and returns what it prints."""
    command = [str(POINTSMAN), *words, "--data-dir", str(home)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=60).stdout


def lists(home: Path) -> list[str]:
    """Returns what the commands that list keys, usage, adapters and collections print."""
    return [pointsman(home, *words) for words in LISTS]


def shell(folder: Path, commands: str) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    subprocess.run(["bash", "-euc", commands], cwd=folder, env={**os.environ, "PATH": path}, check=True, timeout=120)


async def test_a_data_directory_comes_back_with_the_receipts_that_redis_did_not_have(tmp_path: Path) -> None:
    home, example = tmp_path / ".pointsman", Path(shutil.copytree(EXAMPLE, tmp_path / "helpdesk"))
    environment = {"POINTSMAN_ENGINE_PYTHON": str(engine_python(tmp_path)), "POINTSMAN_LORA_SMOKE_TEST": "off"}
    back_up, restore = commands_of("One machine")

    with up(home, example, environment) as running:
        pointsman(home, "keys", "create", "--tenant", "acme", "--dollars-per-month", "100")
        decided = [ask(running)]
        redis = running.run["redis_url"]
        await receipts_once(redis, lambda receipts: {one["id"] for one in receipts.decided} >= set(decided), within=60)
        before = lists(home)
        os.kill(running.run["processes"]["valkey"]["pid"], signal.SIGSTOP)
        decided.append(ask(running))  # its receipt stays in the write-ahead log

    shell(tmp_path, back_up)
    home.rename(tmp_path / "damaged")
    shell(tmp_path, restore)
    assert not (home / "models").exists()

    with up(home, example, environment) as running:
        redis = running.run["redis_url"]
        await receipts_once(redis, lambda receipts: {one["id"] for one in receipts.decided} >= set(decided), within=60)
        assert lists(home) == before
        ask(running)
