"""LiteLLM's proxy in front of the gateway: OpenAI's client and Anthropic's format, sent to the proxy."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai_client
from checks import (
    BASE_MODEL,
    CHAT,
    MESSAGES,
    PLAIN,
    QUESTION,
    STREAMED_TOOLS,
    STREAMING,
    STRUCTURED,
    TOOL_RESULTS,
    TOOLS,
    run,
)

CONFIG = """
model_list:
- model_name: "*"
  litellm_params: {{model: "openai/*", api_base: "{url}/v1", api_key: none}}
"""
MESSAGE = {"model": BASE_MODEL, "max_tokens": 12, "temperature": 0, "messages": [{"role": "user", "content": QUESTION}]}
SECONDS = 240


@contextmanager
def proxy(url: str) -> Iterator[str]:
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        Path(folder, "config.yaml").write_text(CONFIG.format(url=url))
        litellm = str(Path(sys.executable).parent / "litellm")
        command = [litellm, "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)]
        with Path(folder, "log").open("wb") as log:
            environment = os.environ | {"LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true"}
            server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
            try:
                wait_until_ready(f"http://127.0.0.1:{port}", server, Path(folder, "log"))
                yield f"http://127.0.0.1:{port}"
            finally:
                server.terminate()
                server.wait(30)


def wait_until_ready(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx.get(f"{url}/health/liveliness").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError(f"the proxy does not start: {log.read_text()[-3000:]}")


def message(url: str) -> None:
    answer = httpx.post(f"{url}/v1/messages", json=MESSAGE, timeout=SECONDS).json()
    assert "Paris" in answer["content"][0]["text"], answer


def streamed_message(url: str) -> None:
    answer = httpx.post(f"{url}/v1/messages", json={**MESSAGE, "stream": True}, timeout=SECONDS)
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line.startswith("data: ")]
    text = "".join(event["delta"].get("text", "") for event in events if event["type"] == "content_block_delta")
    assert "Paris" in text, answer.text
    assert events[-1]["type"] == "message_stop", events


if __name__ == "__main__":
    chat = {
        PLAIN: openai_client.plain,
        STREAMING: openai_client.streaming,
        TOOLS: openai_client.tools,
        STREAMED_TOOLS: openai_client.streamed_tools,
        TOOL_RESULTS: openai_client.tool_results,
        STRUCTURED: openai_client.structured,
    }
    with proxy(sys.argv[1]) as sys.argv[1]:
        messages = {PLAIN: message, STREAMING: streamed_message}
        run({f"{CHAT}, through its proxy": chat, f"{MESSAGES}, through its proxy": messages})
