"""Runs the shell blocks of README.md and docs/, page by page, in the help desk with a double of the engine."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doc_blocks import Block, blocks_by_page, fill, run
from tests.lora_server.server_process import engine_python
from tests.running_example import EXAMPLE, RunningExample, run_example

PAGES = blocks_by_page("")


@pytest.fixture(scope="module")
def help_desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningExample]:
    home = tmp_path_factory.mktemp("home")
    environment = {
        "POINTSMAN_ENGINE_PYTHON": str(engine_python(home)),
        "POINTSMAN_LORA_SMOKE_TEST": "off",
        "POINTSMAN_LORA_HELD": "8",
    }
    with run_example(Path(shutil.copytree(EXAMPLE, home / "helpdesk")), home, environment) as running:
        yield running


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_succeed(page: Path, help_desk: RunningExample, tmp_path: Path) -> None:
    run(PAGES[page], fill(tmp_path, help_desk.home), help_desk.url.removeprefix("http://"))


def test_a_command_that_fails_is_reported(tmp_path: Path) -> None:
    blocks = [Block(Path("page.md"), line, "bash", text, "") for line, text in ((1, "false\n"), (2, "echo on\n"))]
    with pytest.raises(AssertionError, match=r"# page\.md:1"):
        run(blocks, tmp_path, "127.0.0.1:9")
