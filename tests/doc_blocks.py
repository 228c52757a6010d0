"""The code blocks of README.md, CONTRIBUTING.md and docs/, and a shell that runs the shell blocks of a page.

A block that cannot be loaded or run has the reason in a comment on the line before it: `<!-- not loaded: REASON -->`
(YAML), `<!-- not run: REASON -->` (shell). `<!-- real engine -->` marks a shell block that `make test-docs` runs.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
PATIENCE = 600
"""Time limit of all commands of a page, in seconds."""
SHELLS = ("bash", "sh")
_MARK = re.compile(r"<!-- (not loaded(?=: .{10,})|not run(?=: .{10,})|real engine(?= -->))[^\n]* -->\n$")


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    text: str
    mark: str
    """The block's mark: `not loaded`, `not run`, `real engine`, or empty."""

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def _blocks() -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text()
        for found in re.finditer(r"^```(\S*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            before = text[: found.start()]
            mark = _MARK.search(before)
            yield Block(page, before.count("\n") + 1, found[1], found[2], mark[1] if mark else "")


BLOCKS = list(_blocks())
SHELL = [block for block in BLOCKS if block.language in SHELLS]


def blocks_by_page(mark: str) -> dict[Path, list[Block]]:
    """Returns the shell blocks with this mark, by page."""
    pages: dict[Path, list[Block]] = {}
    for block in SHELL:
        if block.mark == mark:
            pages.setdefault(block.page, []).append(block)
    return pages


def run(blocks: Iterable[Block], folder: Path, http: str) -> None:
    """Runs shell blocks one after another in one shell, in `folder`.

    `http` replaces the default address of the gateway. Raises AssertionError if a command fails.
    """
    program = Path(sys.executable).parent
    texts = [f"echo '# {block}'\n{block.text.replace('127.0.0.1:8080', http)}" for block in blocks]
    done = subprocess.run(
        ["bash", "-euo", "pipefail"],
        input="\n".join(texts),
        cwd=folder,
        env={**os.environ, "PATH": f"{program}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def fill(folder: Path, data_dir: Path) -> Path:
    """Copies the example's files to `folder`, so that `pointsman up` runs there as in a clone of the repository."""
    (folder / ".pointsman").symlink_to(data_dir)
    (folder / ".venv").symlink_to(Path(sys.executable).parents[1])
    (folder / ".venv-engine").symlink_to(ROOT / ".venv-engine")
    (folder / "examples").symlink_to(ROOT / "examples")
    return folder
