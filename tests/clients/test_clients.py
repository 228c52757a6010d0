"""Real clients in pinned versions, each in its own environment, with the help desk and its engine; agents with a
scripted engine.

A client is one script of this folder and one file with its packages. `make test-clients` creates the environments, and
writes the results to results.json and to the table in docs/clients.md.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.clients.compatibility import CLIENTS, VLLM, Client, store_result
from tests.clients.conftest import Addresses
from tests.running_example import ROOT

SECONDS = 580
"""Time limit for all checks of one client, on a busy machine."""


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_a_client_works(request: pytest.FixtureRequest, client: Client) -> None:
    help_desk: Addresses = request.getfixturevalue("help_desk" if client.engine == VLLM else "scripted_help_desk")
    environment = {
        **os.environ,
        "DO_NOT_TRACK": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "POINTSMAN_GRPC": help_desk.grpc,
        "PATH": f"{ROOT / '.venv-clients' / client.name / 'node_modules' / '.bin'}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        [*command(client), help_desk.url], capture_output=True, text=True, timeout=SECONDS, env=environment
    )
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"api"')]
    assert results, done.stdout
    store_result(client, results)
    failed = [f"{result['api']}, {result['check']}: {result['error']}" for result in results if result["error"]]
    assert not failed, "\n".join(failed)


def command(client: Client) -> list[str]:
    environment = ROOT / ".venv-clients" / client.name
    assert (environment / ".done").exists(), "run `make test-clients`, which creates the clients' environments"
    if client.script.suffix == ".py":
        python = sys.executable if client.is_node else environment / "bin" / "python"
        return [str(python), str(client.script)]
    # Node looks for packages beside the script.
    for file in (client.script, client.script.with_name("checks.mjs")):
        shutil.copy(file, environment)
    return ["node", str(environment / client.script.name)]
