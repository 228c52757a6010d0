"""The command `llm`, configured with extra-openai-models.yaml."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from checks import BASE_MODEL, CHAT, PERSON, PLAIN, QUESTION, SENTENCE, STREAMING, STRUCTURED, is_person, run

MODELS = """
- {{model_id: base, model_name: {base}, api_base: "{url}/v1"}}
- {{model_id: chosen, model_name: auto, api_base: "{url}/v1", supports_schema: true}}
"""


def prompt(url: str, *arguments: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "extra-openai-models.yaml").write_text(MODELS.format(base=BASE_MODEL, url=url))
        environment = {**os.environ, "LLM_USER_PATH": folder, "OPENAI_API_KEY": "none"}
        command = [str(Path(sys.executable).parent / "llm"), "prompt", *arguments, "--option", "temperature", "0"]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def plain(url: str) -> None:
    text = prompt(url, QUESTION, "--model", "base", "--option", "max_tokens", "12", "--no-stream")
    assert "Paris" in text, text


def streaming(url: str) -> None:
    text = prompt(url, QUESTION, "--model", "base", "--option", "max_tokens", "12")
    assert "Paris" in text, text


def structured(url: str) -> None:
    text = prompt(url, SENTENCE, "--model", "chosen", "--schema", json.dumps(PERSON))
    assert is_person(json.loads(text)), text


if __name__ == "__main__":
    run({CHAT: {PLAIN: plain, STREAMING: streaming, STRUCTURED: structured}})
