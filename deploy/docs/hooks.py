"""MkDocs hooks: adds the generated reference and the benchmarks' results, lists whole folders in the navigation, and
removes links to other files outside docs/.

`tests/test_docs.py` checks that the linked files exist.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

REFERENCE = Path(__file__).parents[2] / "build" / "reference"
"""The pages that `python -m deploy.docs.reference` writes."""
RESULTS = Path(__file__).parents[2] / "benchmarks" / "RESULTS.md"
_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>[^)\s#:]+)(?:#[^)\s]*)?\)")


def on_config(config: Any) -> None:
    """Replaces `FOLDER/*.md` in the navigation by the folder's pages, `index.md` first."""
    config.nav = _expand(config.nav, Path(config.docs_dir))


def on_files(files: Any, config: Any) -> None:
    files.append(File.generated(config, "benchmarks.md", abs_src_path=str(RESULTS)))
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
    """Adapts a page's links, which are relative to the file in the repository, to the site."""
    source = "benchmarks/RESULTS.md" if page.file.src_uri == "benchmarks.md" else f"docs/{page.file.src_uri}"
    folder = posixpath.dirname(source)

    def on_the_site(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, found["target"]))
        if target == "benchmarks/RESULTS.md":
            return found[0].replace(found["target"], posixpath.relpath("docs/benchmarks.md", folder))
        if not target.startswith("docs/"):
            return found["text"]
        return found[0].replace(found["target"], target.removeprefix("docs/")) if folder == "benchmarks" else found[0]

    return _LINK.sub(on_the_site, markdown)
