"""The command `aider`. A model this small answers its questions but cannot make edits in its formats."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from checks import BASE_MODEL, CHAT, PLAIN, QUESTION, STREAMING, run

SETTINGS = f"""
- name: openai/{BASE_MODEL}
  edit_format: ask
  extra_params: {{max_tokens: 12}}
"""
METADATA = {f"openai/{BASE_MODEL}": {"max_input_tokens": 4096, "litellm_provider": "openai", "mode": "chat"}}


def ask(url: str, *arguments: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "settings.yml").write_text(SETTINGS)
        Path(folder, "metadata.json").write_text(json.dumps(METADATA))
        command = [str(Path(sys.executable).parent / "aider"), "--message", QUESTION, *arguments]
        command += ["--model", f"openai/{BASE_MODEL}", "--model-settings-file", "settings.yml"]
        command += ["--no-git", "--yes-always", "--no-check-update", "--analytics-disable", "--no-show-model-warnings"]
        command += ["--no-show-release-notes", "--model-metadata-file", "metadata.json"]
        command += ["--map-tokens", "0", "--no-pretty", "--chat-history-file", "history.md"]
        environment = {"OPENAI_API_BASE": f"{url}/v1", "OPENAI_API_KEY": "none", "HOME": folder}
        done = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=folder, env=os.environ | environment
        )
        history = Path(folder, "history.md").read_text()
    assert done.returncode == 0, (done.stdout, done.stderr)
    _, _, answer = history.partition(f"#### {QUESTION}")
    text, _, counts = answer.partition("> Tokens: ")
    assert text.strip(), (history, done.stdout)
    assert " received" in counts, history


def plain(url: str) -> None:
    ask(url, "--no-stream")


def streaming(url: str) -> None:
    ask(url, "--stream")


if __name__ == "__main__":
    run({CHAT: {PLAIN: plain, STREAMING: streaming}})
