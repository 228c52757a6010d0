"""Real clients in pinned versions, each in its own environment, with the help desk and its engine.

`make test-clients` creates the environments. A client is one script of this folder and one file of requirements.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.running_example import ROOT, RunningExample

FOLDER = Path(__file__).parent
SECONDS = 560
"""Time limit for all checks of one client, on a busy machine."""
CLIENTS = {
    "openai": "openai_client.py",
    "langchain": "langchain_client.py",
    "litellm": "litellm_client.py",
    "pydantic-ai": "pydantic_ai_client.py",
    "instructor": "instructor_client.py",
}


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_works(help_desk: RunningExample, name: str) -> None:
    python = ROOT / ".venv-clients" / name / "bin" / "python"
    assert python.exists(), "run `make test-clients`, which creates the clients' environments"
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "DO_NOT_TRACK": "1"}
    done = subprocess.run(
        [str(python), str(FOLDER / CLIENTS[name]), help_desk.url],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"check"')]
    assert results
    failed = {result["check"]: result["error"] for result in results if result["error"]}
    assert not failed, "\n".join(f"{check}: {error}" for check, error in failed.items())
