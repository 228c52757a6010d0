"""Reads HTML and PDF files; runs in the sandbox only."""

from io import BytesIO

from bs4 import BeautifulSoup
from markdownify import MarkdownConverter
from pypdf import PasswordType, PdfReader
from pypdf.errors import PyPdfError

from pointsman_retriever.loaders.formats import LoadedText, UnreadableFile

MAX_PAGES = 5_000

_REMOVED_ELEMENTS = ("script", "style", "noscript", "template", "svg", "nav", "footer", "form", "iframe", "button")


def read_html(content: bytes) -> LoadedText:
    """Converts an HTML page to Markdown, and returns it with the page's title.

    Keeps headings, lists, tables and code; drops scripts, navigation, forms, footers, images and the targets of links.
    Uses the encoding that the page declares, or else guesses the encoding. Raises UnreadableFile if the page is nested
    too deeply.
    """
    try:
        page = BeautifulSoup(content, "html.parser")
        title = page.title.get_text(" ", strip=True) if page.title else ""
        for element in page([*_REMOVED_ELEMENTS, "head"]):
            element.decompose()
        converter = MarkdownConverter(heading_style="ATX", bullets="-", strip=["a", "img"], escape_misc=False)
        return LoadedText(title, converter.convert_soup(page).strip())
    except RecursionError as error:
        raise UnreadableFile("is nested too deeply") from error


def read_pdf(content: bytes) -> LoadedText:
    """Extracts the title and the text of all pages of a PDF file.

    Raises UnreadableFile if the file is not a PDF, needs a password, has more than `MAX_PAGES` pages, or has no text (a
    scan).
    """
    try:
        reader = PdfReader(BytesIO(content))
        if reader.is_encrypted and reader.decrypt("") == PasswordType.NOT_DECRYPTED:
            raise UnreadableFile("is encrypted")
        if len(reader.pages) > MAX_PAGES:
            raise UnreadableFile(f"has {len(reader.pages):,} pages; the maximum is {MAX_PAGES:,}")
        title = reader.metadata.title if reader.metadata else None
        text = "\n\n".join(page.extract_text().strip() for page in reader.pages).strip()
    except (PyPdfError, RecursionError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UnreadableFile(f"is not a readable PDF: {type(error).__name__}: {error}") from error
    if not text:
        raise UnreadableFile("has no text; a scan has to go through character recognition first")
    return LoadedText(title or "", text.replace("\0", ""))


READERS = {"text/html": read_html, "application/xhtml+xml": read_html, "application/pdf": read_pdf}
