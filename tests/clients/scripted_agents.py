"""Runs agents as users do, headless, against a gateway."""

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.running_example import ROOT

CLIENTS = ROOT / ".venv-clients"
CLAUDE = CLIENTS / "claude-code/node_modules/.bin/claude"
CODEX = CLIENTS / "codex/node_modules/.bin/codex"
STRANDS = CLIENTS / "strands/bin/python"
OPENCODE = CLIENTS / "opencode/node_modules/.bin/opencode"
AIDER = CLIENTS / "aider/bin/aider"
SECONDS = 240


async def ask_claude_code(url: str, folder: Path, prompt: str, *arguments: str) -> dict[str, Any]:
    """Runs one turn of Claude Code in `folder`, which also has its settings, and returns its report."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_AUTH_TOKEN": "none",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
    }
    out = await run_program(CLAUDE, ["-p", prompt, "--output-format", "json", *arguments], folder, environment)
    report: dict[str, Any] = json.loads(out)
    return report


async def ask_codex(url: str, folder: Path, *arguments: str) -> Sequence[str]:
    """Runs Codex in `folder` with a prompt in `arguments`, and returns the texts of its answer."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    provider = f'{{name = "Pointsman", base_url = "{url}/v1", wire_api = "responses", request_max_retries = 0}}'
    command = [
        "exec", "--json", "--skip-git-repo-check", "--sandbox", "read-only", "--cd", str(folder),
        "--config", 'model_provider="pointsman"', "--config", f"model_providers.pointsman={provider}",
        "--model", "codex", *arguments,
    ]  # fmt: skip
    out = await run_program(CODEX, command, folder, {**os.environ, "CODEX_HOME": str(home)})
    events = [json.loads(line) for line in out.splitlines() if line.startswith(b"{")]
    return [event["item"]["text"] for event in events if event.get("item", {}).get("type") == "agent_message"]


async def ask_strands(url: str, folder: Path, prompt: str) -> str:
    """Returns the answer of an agent of the framework Strands that has a tool `look`."""
    out = await run_program(
        STRANDS, [str(Path(__file__).with_name("strands_agent.py")), url, prompt], folder, os.environ
    )
    return out.decode()


async def ask_opencode(url: str, folder: Path, prompt: str) -> bytes:
    """Runs one turn of opencode in `folder`, which also has its settings, and returns its events."""
    options = {"baseURL": f"{url}/v1", "apiKey": "none"}
    provider = {"npm": "@ai-sdk/openai-compatible", "options": options, "models": {"auto": {}}}
    (folder / "opencode.json").write_text(json.dumps({"provider": {"pointsman": provider}}))
    homes = ("HOME", "PWD", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")
    environment = {**os.environ, **dict.fromkeys(homes, str(folder))}
    environment |= {"OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1"}
    return await run_program(
        OPENCODE, ["run", "--format", "json", "--model", "pointsman/auto", prompt], folder, environment
    )


async def ask_aider(url: str, folder: Path, prompt: str) -> bytes:
    """Runs one turn of aider about a file in `folder`, and returns what it prints."""
    (folder / "tickets.py").write_text("def price(distance):\n    return 2 + distance\n")
    command = ["--message", prompt, "--model", "openai/auto", "--no-git", "--yes-always", "--no-check-update"]
    command += ["--analytics-disable", "--no-show-model-warnings", "--no-show-release-notes", "--no-pretty"]
    environment = {**os.environ, "OPENAI_API_BASE": f"{url}/v1", "OPENAI_API_KEY": "none", "HOME": str(folder)}
    return await run_program(AIDER, [*command, "tickets.py"], folder, environment)


async def run_program(program: Path, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> bytes:
    """Returns the program's output; fails if the program exits with an error or takes too long."""
    process = await asyncio.create_subprocess_exec(
        _installed(program), *arguments,
        cwd=folder, env=environment, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(SECONDS):
            out, problems = await process.communicate()
    except TimeoutError:
        process.kill()
        raise
    assert process.returncode == 0, (out, problems)
    return out


def _installed(program: Path) -> str:
    assert program.exists(), "run `make test-clients`, which installs it"
    return str(program)
