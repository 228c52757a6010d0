"""MkDocs hooks: adds the generated reference, lists whole folders in the navigation, and removes links to files outside
docs/.

`tests/test_docs.py` checks that the linked files exist.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

REFERENCE = Path(__file__).parents[2] / "build" / "reference"
"""The pages that `python -m deploy.docs.reference` writes."""
_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>[^)\s#:]+)(?:#[^)\s]*)?\)")


def on_config(config: Any) -> None:
    """Replaces `FOLDER/*.md` in the navigation by the folder's pages, `index.md` first."""
    config.nav = _expand(config.nav, Path(config.docs_dir))


def on_files(files: Any, config: Any) -> None:
    for page in sorted(REFERENCE.glob("*.md")):
        files.append(File.generated(config, f"reference/{page.name}", abs_src_path=str(page)))


def _expand(entry: Any, docs: Path) -> Any:
    if isinstance(entry, list):
        return [_expand(item, docs) for item in entry]
    if isinstance(entry, dict):
        return {title: _expand(item, docs) for title, item in entry.items()}
    if not entry.endswith("/*.md"):
        return entry
    pages = sorted(docs.glob(entry), key=lambda page: (page.name != "index.md", page.name))
    return [str(page.relative_to(docs)) for page in pages]


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    folder = posixpath.dirname(page.file.src_uri)

    def without_outside_link(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, found["target"]))
        return found["text"] if target.startswith("..") else found[0]

    return _LINK.sub(without_outside_link, markdown)
