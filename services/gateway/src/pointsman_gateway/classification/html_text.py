"""Converts HTML to text.

An element whose attributes show that a person wrote its content becomes a tag that names the user or others.
"""

import re
from html import unescape

from pointsman_gateway.classification.wrappers import Wrapper, labels_file

MAX_OPEN_ELEMENTS = 64
USER_TAG, OTHERS_TAG, QUOTED_TAG = "user", "system", "quotation"

_HTML = re.compile(r"</(?:p|div|span|body|html|td|li|h[1-6])>|<br ?/?>", re.IGNORECASE)
_HIDDEN = Wrapper(
    "html",
    drop=(
        ("<script", "</script>"),
        ("<style", "</style>"),
        ("<head>", "</head>"),
        ("<title", "</title>"),
        ("<!--", "-->"),
        ("<!DOCTYPE", ">"),
        ("<?xml", "?>"),
    ),
)
_CDATA = re.compile(r"<!\[CDATA\[(?P<text>.*?)\]\]>", re.DOTALL)
_TAG = re.compile(
    r"<(?P<close>/?)(?:(?P<office>(?:[movwx]|st1):\w{1,30})|(?P<name>[a-zA-Z][a-zA-Z0-9]{0,20}))"
    r"(?P<attributes>(?:\s[^<>]{0,500})?)/?>"
)
"""An HTML tag. The group `office` matches a tag of Microsoft Office, which says nothing about the text."""
_MARK = re.compile(
    r"\b(?:class|role|id|data-[a-z-]{1,20})\s{0,3}=\s{0,3}[\"']?(?P<value>[^\"'<>]{0,100})", re.IGNORECASE
)
_VOID = frozenset(("br", "hr", "img", "input", "link", "meta", "wbr"))
_CELLS = frozenset(("td", "th"))
_TAGS = {"blockquote": QUOTED_TAG, "time": OTHERS_TAG}
"""The tags of elements that are never the user's."""
_QUOTED = Wrapper("html", drop=((f"<{QUOTED_TAG}>", f"</{QUOTED_TAG}>"),))
_SPACES = re.compile(r"[ \t\xa0]+")
_AROUND_BREAKS = re.compile(r"[ \t]*\n[ \t\n]*")
_WORD = re.compile(r"[a-z]+")

_FILE = labels_file()["html"]
_INLINE = frozenset(_FILE["inline"].split())
_ELEMENTS = _INLINE | _VOID | _CELLS | frozenset(_FILE["blocks"].split())
_AUTHORS = {
    **dict.fromkeys(_FILE["of_others"], OTHERS_TAG),
    **dict.fromkeys(_FILE["of_user"], USER_TAG),
    **dict.fromkeys(_FILE["quoted"], QUOTED_TAG),
}


def html_to_text(text: str) -> str:
    """Returns the visible text of HTML; returns a text without HTML unchanged.

    CDATA sections of XML become their content. Each block becomes a line, and cells in a row of a table are separated
    by "|". Hidden and quoted content is left out. Around an element whose class, role or id names an author, the tag
    `USER_TAG` or `OTHERS_TAG` is written. Tags that HTML does not define are kept.
    """
    if "<![CDATA[" in text:
        text = _CDATA.sub(r"\g<text>", text)
    if "&lt;/" in text and not _HTML.search(text):
        text = unescape(text)
    if not _HTML.search(text):
        return text
    open_elements: list[tuple[str, str]] = []

    def replaced(tag: re.Match[str]) -> str:
        if tag["office"]:
            return ""
        name = tag["name"].lower()
        if name not in _ELEMENTS:
            return tag[0]
        around = "" if name in _INLINE else "\n"
        if name in _CELLS:
            around = "" if tag["close"] else " | "
        if name in _VOID or len(open_elements) > MAX_OPEN_ELEMENTS:
            return around
        if not tag["close"]:
            author = _TAGS.get(name) or _author(tag["attributes"])
            if author == QUOTED_TAG and any(one == QUOTED_TAG for _, one in open_elements):
                author = ""
            open_elements.append((name, author))
            return f"\n<{author}>\n" if author else around
        author = _close(open_elements, name)
        return f"\n</{author}>\n" if author else around

    shown = unescape(_QUOTED.unwrap(_TAG.sub(replaced, _HIDDEN.unwrap(text))))
    return _AROUND_BREAKS.sub("\n", _SPACES.sub(" ", shown)).strip()


def _author(attributes: str) -> str:
    """Returns the tag of the author that a class, role or id names; empty if none of them names an author.

    Of several known words in an attribute, the last one decides.
    """
    for mark in _MARK.finditer(attributes):
        for word in reversed(_WORD.findall(mark["value"].lower())):
            if word in _AUTHORS:
                return _AUTHORS[word]
    return ""


def _close(open_elements: list[tuple[str, str]], name: str) -> str:
    """Removes the innermost open element with this name, and all elements within it, from `open_elements`.

    Returns the tag of the element's author; empty if it has none, or if no such element is open.
    """
    for number in range(len(open_elements) - 1, -1, -1):
        if open_elements[number][0] == name:
            author = open_elements[number][1]
            del open_elements[number:]
            return author
    return ""
