"""Runs the shell blocks that are marked `<!-- real engine -->`, in the help desk with vLLM."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doc_blocks import blocks_by_page, fill, run
from tests.running_example import EXAMPLE, RunningExample, run_example

PAGES = blocks_by_page("real engine")


@pytest.fixture(scope="module")
def help_desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningExample]:
    home = tmp_path_factory.mktemp("home")
    with run_example(Path(shutil.copytree(EXAMPLE, home / "helpdesk")), home) as running:
        yield running


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_succeed(page: Path, help_desk: RunningExample, tmp_path: Path) -> None:
    run(PAGES[page], fill(tmp_path, help_desk.home), help_desk.url.removeprefix("http://"))
