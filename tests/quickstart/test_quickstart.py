"""From wheels only, in an empty folder: five commands lead to the first answer of an OpenAI-compatible endpoint.

`make test-quickstart` builds the wheels and prints how many seconds it takes.
"""

import asyncio
import os
import shutil
import signal
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.gateway.doubles.engine import answer, model_list, running_engine
from tests.gateway.doubles.waiting import until
from tests.ports import free_address

ROOT = Path(__file__).parents[2]
WHEELS = ROOT / "dist"
MAX_SECONDS = 90
PYTHONS = os.environ.get("QUICKSTART_PYTHONS", "python3").split()
MESSAGES = {
    "refund": "please refund my ticket number {} and send the money back",
    "hours": "when does the ticket office at platform {} open on Sunday?",
    "lost": "I left my umbrella in coach {} of the night train",
}
"""By task, a text with a place for a number."""
KEPT = ("PIP_", "SSL_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "LANG")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Returns the environment of a user who has only Python: no clone, no virtual environment, no cache."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(KEPT)}
    return {**kept, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path / "user"), "PIP_NO_CACHE_DIR": "1"}


async def run(folder: Path, environment: dict[str, str], *command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=environment, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, f"{' '.join(command)}\n{output.decode()}"
    return output.decode()


@asynccontextmanager
async def running(folder: Path, environment: dict[str, str], *command: str) -> AsyncIterator[None]:
    """Runs `pointsman up` for the duration of the block, which begins when it is ready."""
    with (folder / "up.log").open("wb") as log:
        up = await asyncio.create_subprocess_exec(*command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        await until(lambda: (folder / ".pointsman/run.json").exists() or up.returncode is not None, within=300)
        assert up.returncode is None, (folder / "up.log").read_text()
        yield
    finally:
        if up.returncode is None:
            up.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(up.wait(), 60) == 0, (folder / "up.log").read_text()


@pytest.mark.parametrize("python", PYTHONS)
async def test_five_commands_lead_to_the_first_answer(
    python: str, tmp_path: Path, environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert any(WHEELS.glob("pointsman-*.whl")), "make wheels"
    folder, interpreter = tmp_path / "empty", shutil.which(python)
    assert interpreter, f"there is no {python}"
    folder.mkdir()
    pointsman, http = str(folder / "env/bin/pointsman"), free_address()
    steps: dict[str, float] = {}
    async with running_engine() as endpoint:
        endpoint.lists = lambda: model_list("small-model")
        endpoint.script = lambda body: answer("Because of", " Rayleigh scattering.")
        began = time.monotonic()

        def done(step: str) -> None:
            steps[step] = time.monotonic() - began - sum(steps.values())

        await run(folder, environment, interpreter, "-m", "venv", "env")
        done("venv")
        await run(folder, environment, "env/bin/pip", "install", "-q", "--find-links", str(WHEELS), "pointsman")
        done("pip install")
        checked = await run(folder, environment, pointsman, "doctor", "--http", http, "--grpc", "127.0.0.1:0")
        done("doctor")
        addresses = ("--http", http, "--grpc", "127.0.0.1:0")
        async with running(folder, environment, pointsman, "up", "--engine", endpoint.url, *addresses):
            done("up")
            output = await run(folder, environment, pointsman, "ask", "Why is the sky blue?")
            done("ask")
            seconds = sum(steps.values())
    with capsys.disabled():
        parts = ", ".join(f"{step} {spent:.1f}" for step, spent in steps.items())
        print(f"\n{python}: first answer after {seconds:.1f} s ({parts})")
    assert "Rayleigh scattering." in output
    assert "ok   engine: none installed; engines and providers with a URL need none" in checked
    imports = "import pointsman_gateway.__main__, pointsman_lab, pointsman_cli.__main__"
    await run(folder, environment, "env/bin/python", "-W", "error", "-c", imports)
    assert not list((folder / "env").rglob("site-packages/torch")), "no engine was asked for"
    await run(folder, environment, pointsman, "init", "example", "--example", "minimal")
    assert (folder / "example/pointsman.yaml").is_file()
    await run(folder, environment, "env/bin/pip", "install", "-q", "--find-links", str(WHEELS), "pointsman[retriever]")
    await run(folder, environment, "env/bin/python", "-W", "error", "-c", "import pointsman_retriever.__main__")
    assert seconds <= MAX_SECONDS


@pytest.mark.parametrize("python", PYTHONS)
async def test_labelled_messages_become_tasks_that_are_served(
    python: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    """The commands are `pip install`, `init` with a CSV of messages, `up`, `route` and `ask`."""
    folder, interpreter = tmp_path / "empty", shutil.which(python)
    assert interpreter, f"there is no {python}"
    folder.mkdir()
    messages = [f"{text.format(n)},{task}" for task, text in MESSAGES.items() for n in range(10)]
    (folder / "labelled.csv").write_text("\n".join(["text,task", *messages]) + "\n")
    pointsman, http = str(folder / "env/bin/pointsman"), free_address()
    async with running_engine() as endpoint:
        endpoint.lists = lambda: model_list("small-model")
        endpoint.script = lambda body: answer("At", " nine.")
        await run(folder, environment, interpreter, "-m", "venv", "env")
        await run(folder, environment, "env/bin/pip", "install", "-q", "--find-links", str(WHEELS), "pointsman")
        asked = ("--engine", endpoint.url, "--model", "small-model", "--examples", "labelled.csv")
        made = await run(folder, environment, pointsman, "init", "mine", *asked)
        addresses = ("--http", http, "--grpc", "127.0.0.1:0")
        async with running(folder, environment, pointsman, "up", "mine", *addresses):
            routed = await run(folder, environment, pointsman, "route", MESSAGES["refund"].format(77))
            output = await run(folder, environment, pointsman, "ask", MESSAGES["hours"].format(78))
    assert "refund" in made
    assert "refund" in routed
    assert "At nine." in output
    assert "hours" in output
