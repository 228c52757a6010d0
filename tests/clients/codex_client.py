"""One turn of Codex without its instructions and some tools, which exceed the help desk's context window."""

import json
import os
import subprocess
import tempfile
from pathlib import Path

from checks import BASE_MODEL, QUESTION, RESPONSES, STREAMING, run

CONFIG = """
model = "{model}"
model_provider = "pointsman"
model_instructions_file = "{home}/instructions.md"

[features]
goals = false
multi_agent = false

[model_providers.pointsman]
name = "Pointsman"
base_url = "{url}/v1"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0
stream_idle_timeout_ms = 300000
"""


def one_turn(url: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "instructions.md").write_text("Be brief.")
        (home / "config.toml").write_text(CONFIG.format(model=BASE_MODEL, url=url, home=home))
        command = ["codex", "exec", "--json", "--skip-git-repo-check", "--sandbox", "read-only"]
        done = subprocess.run(
            [*command, "--cd", folder, QUESTION],
            capture_output=True,
            text=True,
            timeout=500,
            env={**os.environ, "CODEX_HOME": folder},
            stdin=subprocess.DEVNULL,
        )
    assert done.returncode == 0, (done.stdout, done.stderr)
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert any(event["type"] == "turn.completed" for event in events), events
    texts = [event["item"]["text"] for event in events if event.get("item", {}).get("type") == "agent_message"]
    assert any(texts), events


if __name__ == "__main__":
    run({RESPONSES: {STREAMING: one_turn}})
