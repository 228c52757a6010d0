"""HTML to Markdown: headings, lists, tables and code stay; scripts, styles, navigation and pictures go."""

from bs4 import BeautifulSoup
from markdownify import MarkdownConverter

from pointsman_retriever.loaders.text import LoadedText
from pointsman_retriever.loaders.unreadable import UnreadableFile

_REMOVED_ELEMENTS = ("script", "style", "noscript", "template", "svg", "nav", "footer", "form", "iframe", "button")


def read_html(content: bytes) -> LoadedText:
    """In the encoding that the page names, else as it looks like; raises Unreadable."""
    try:
        page = BeautifulSoup(content, "html.parser")
        title = page.title.get_text(" ", strip=True) if page.title else ""
        for element in page([*_REMOVED_ELEMENTS, "head"]):
            element.decompose()
        converter = MarkdownConverter(heading_style="ATX", bullets="-", strip=["a", "img"], escape_misc=False)
        return LoadedText(title, converter.convert_soup(page).strip())
    except RecursionError as error:
        raise UnreadableFile("is nested too deeply") from error
