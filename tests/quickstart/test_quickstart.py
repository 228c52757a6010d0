"""From wheels only, in an empty folder: five commands lead to the first answer of an OpenAI-compatible endpoint.

`make test-quickstart` builds the wheels and prints how many seconds it takes.
"""

import shutil
import time
from pathlib import Path

import pytest

from tests.gateway.doubles.engine import answer, model_list, running_engine
from tests.ports import free_address
from tests.quickstart.installation import PYTHONS, WHEELS, environment_of, run, running

MAX_SECONDS = 90
MESSAGES = {
    "refund": "please refund my ticket number {} and send the money back",
    "hours": "when does the ticket office at platform {} open on Sunday?",
    "lost": "I left my umbrella in coach {} of the night train",
}
"""By task, a text with a place for a number."""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return environment_of(tmp_path / "user")


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
