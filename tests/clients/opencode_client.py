"""Turns of opencode with its own instructions and tools, in a folder of its own."""

import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from checks import BASE_MODEL, CHAT, MESSAGES, QUESTION, RESPONSES, STREAMED_TOOLS, STREAMING, run

PACKAGES = {CHAT: "@ai-sdk/openai-compatible", RESPONSES: "@ai-sdk/openai", MESSAGES: "@ai-sdk/anthropic"}
"""The SDK packages that opencode bundles, by API."""


def one_turn(url: str, package: str, question: str) -> list[str]:
    """Runs one turn of opencode, and returns the texts of the answer and the outputs of tools."""
    provider = {"npm": package, "options": {"baseURL": f"{url}/v1", "apiKey": "none"}, "models": {BASE_MODEL: {}}}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "opencode.json").write_text(json.dumps({"provider": {"pointsman": provider}}))
        environment = {
            **os.environ,
            "HOME": folder,
            "OPENCODE_DISABLE_AUTOUPDATE": "1",
            "OPENCODE_DISABLE_MODELS_FETCH": "1",
            "PWD": folder,  # it takes its folder from here
            "XDG_CACHE_HOME": folder,
            "XDG_CONFIG_HOME": folder,
            "XDG_DATA_HOME": folder,
            "XDG_STATE_HOME": folder,
        }
        done = subprocess.run(
            ["opencode", "run", "--format", "json", "--model", f"pointsman/{BASE_MODEL}", question],
            capture_output=True,
            text=True,
            timeout=250,
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
        )
    assert done.returncode == 0, (done.stdout, done.stderr)
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert not any(event["type"] == "error" for event in events), events
    parts = [event["part"] for event in events if event["type"] in {"text", "tool_use"}]
    return [part["text"] if part["type"] == "text" else part["state"]["output"] for part in parts]


def checks_of(package: str) -> dict[str, Callable[[str], None]]:
    def streaming(url: str) -> None:
        *_, answer = one_turn(url, package, QUESTION)
        assert "Paris" in answer, answer

    def streamed_tools(url: str) -> None:
        output, answer = one_turn(url, package, "Say what bash says.")
        assert "sunny" in output, output
        assert "sunny" in answer, answer

    return {STREAMING: streaming, STREAMED_TOOLS: streamed_tools}


if __name__ == "__main__":
    run({api: checks_of(package) for api, package in PACKAGES.items()})
