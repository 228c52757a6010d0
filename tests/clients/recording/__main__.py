"""Records what real clients send: `python -m tests.clients.recording NAME ...`, or `make record-clients`.

Each client asks one question through a gateway with a scripted engine. The messages in the user's and the assistant's
role, as the gateway reads them, are written to tests/gateway/recorded_requests, one file a client. They are cut and
contain no path of the machine, so that two recordings of one version differ only in dates.
"""

import asyncio
import json
import os
import re
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from pointsman_embedding.prepare import prepare

from tests.clients.checks import BASE_MODEL
from tests.clients.scripted_agents import CLIENTS, ask_aider, ask_claude_code, ask_codex, ask_opencode, run_program
from tests.clients.scripted_engine import MODEL, configure, text_of
from tests.gateway.doubles.engine import answer, running_engine
from tests.gateway.doubles.process_gateway import process_gateway
from tests.running_example import ROOT

QUESTION = "May I take my bicycle on the train?"
ANSWER = "Yes, in the last coach."
RECORDED = ROOT / "tests/gateway/recorded_requests"
SCRIPTS = Path(__file__).parent
KEPT_LINES, KEPT_CHARACTERS = 5, 160
"""How many lines at each end of a long message are kept, and how many characters of a long line."""

Ask = Callable[[str, Path, str], Awaitable[object]]


def program(client: str, name: str) -> Path:
    return CLIENTS / f"recorded-{client}/node_modules/.bin/{name}"


async def ask_cline(url: str, folder: Path, question: str) -> None:
    run = [program("cline", "cline"), "--config", folder / "settings"]
    key = ["--provider", "openai", "--apikey", "none", "--modelid", "auto", "--baseurl", f"{url}/v1"]
    await run_program(run[0], ["auth", *key, *map(str, run[1:])], folder, environment(folder))
    arguments = ["--provider", "openai", "--model", "auto", "--json", question]
    await run_program(run[0], [*map(str, run[1:]), *arguments], folder, environment(folder))


async def ask_qwen_code(url: str, folder: Path, question: str) -> None:
    arguments = ["--auth-type", "openai", "--openai-api-key", "none", "--openai-base-url", f"{url}/v1", "-m", "auto"]
    await run_program(program("qwen-code", "qwen"), [*arguments, question], folder, environment(folder))


async def ask_continue(url: str, folder: Path, question: str) -> None:
    model = {"name": "auto", "provider": "openai", "model": "auto", "apiBase": f"{url}/v1", "apiKey": "none"}
    settings = {"name": "recorded", "version": "1.0.0", "schema": "v1", "models": [model]}
    (folder / "config.yaml").write_text(json.dumps(settings))
    arguments = ["--config", str(folder / "config.yaml"), "--print", question]
    await run_program(program("continue", "cn"), arguments, folder, environment(folder))


def framework(client: str) -> Ask:
    async def ask(url: str, folder: Path, question: str) -> None:
        script = SCRIPTS / f"{client.replace('-', '_')}_requests.py"
        python = CLIENTS / f"recorded-{client}/bin/python"
        await run_program(python, [str(script), url, question], folder, environment(folder))

    return ask


def environment(folder: Path) -> Mapping[str, str]:
    quiet = {"CREWAI_DISABLE_TELEMETRY": "true", "OTEL_SDK_DISABLED": "true", "CONTINUE_TELEMETRY_ENABLED": "0"}
    return {**os.environ, **quiet, "HOME": str(folder), "OPENAI_API_KEY": "none", "DO_NOT_TRACK": "1"}


FRAMEWORKS = ("autogen", "crewai", "dspy", "langchain", "llama-index", "smolagents")
ASK: Mapping[str, Ask] = {
    "aider": ask_aider,
    "claude-code": ask_claude_code,
    "codex": ask_codex,
    "opencode": ask_opencode,
    "cline": ask_cline,
    "continue": ask_continue,
    "qwen-code": ask_qwen_code,
    **{client: framework(client) for client in FRAMEWORKS},
}


async def record(client: str) -> list[list[dict[str, str]]]:
    """Returns the conversations that the client has sent, without duplicates."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        folder = home / "project"
        folder.mkdir()
        async with running_engine() as engine:
            engine.says(*answer(ANSWER))
            config = configure(home / "config", engine.url)
            config.models["catch_all"] = BASE_MODEL
            async with process_gateway(home, config=config.write(), embedding_model=MODEL) as gateway:
                await ASK[client](gateway.url, folder, QUESTION)
            found = [conversation(body["messages"], home) for body in engine.bodies]
    return [one for number, one in enumerate(found) if one not in found[:number]]


def conversation(messages: list[dict[str, Any]], home: Path) -> list[dict[str, str]]:
    return [
        {
            "role": message["role"],
            "content": shortened(text_of(message).replace(str(home), "/home/ann").replace(home.name, "ann")),
        }
        for message in messages
        if message["role"] in ("user", "assistant")
    ]


def shortened(text: str) -> str:
    """Cuts the middle of a long message, and the end of long lines."""
    lines = [re.sub(rf"^(.{{{KEPT_CHARACTERS}}}).+$", r"\1...", line) for line in text.split("\n")]
    return "\n".join(lines if len(lines) <= 3 * KEPT_LINES else [*lines[:KEPT_LINES], "...", *lines[-KEPT_LINES:]])


def packages(client: str) -> str:
    files = [
        folder / f"{kind}-{client}.txt" for folder in (SCRIPTS, SCRIPTS.parent) for kind in ("packages", "requirements")
    ]
    return next(file for file in files if file.exists()).read_text().strip()


async def main(clients: list[str]) -> None:
    prepare(MODEL)
    for client in clients or ASK:
        recording = {"packages": packages(client), "conversations": await record(client)}
        (RECORDED / f"{client}.json").write_text(json.dumps(recording, indent=1, ensure_ascii=False) + "\n", "utf-8")
        print(f"{client}: {len(recording['conversations'])} conversations", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
