"""MkDocs hook that removes links to files outside docs/, which the site does not have, and keeps their text.

`tests/test_docs.py` checks that the files exist.
"""

import posixpath
import re
from typing import Any

_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>[^)\s#:]+)(?:#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    folder = posixpath.dirname(page.file.src_uri)

    def without_outside_link(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, found["target"]))
        return found["text"] if target.startswith("..") else found[0]

    return _LINK.sub(without_outside_link, markdown)
