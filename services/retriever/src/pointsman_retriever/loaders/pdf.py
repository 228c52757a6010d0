"""PDF to text, page after page."""

from io import BytesIO

from pypdf import PasswordType, PdfReader
from pypdf.errors import PyPdfError

from pointsman_retriever.loaders.text import LoadedText
from pointsman_retriever.loaders.unreadable import UnreadableFile

MAX_PAGES = 5_000


def read_pdf(content: bytes) -> LoadedText:
    """Raises Unreadable; a scan, which is pictures, has no text."""
    try:
        reader = PdfReader(BytesIO(content))
        if reader.is_encrypted and reader.decrypt("") == PasswordType.NOT_DECRYPTED:
            raise UnreadableFile("is encrypted")
        if len(reader.pages) > MAX_PAGES:
            raise UnreadableFile(f"has {len(reader.pages):,} pages; at most {MAX_PAGES:,} are read")
        title = reader.metadata.title if reader.metadata else None
        text = "\n\n".join(page.extract_text().strip() for page in reader.pages).strip()
    except (PyPdfError, RecursionError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UnreadableFile(f"is no PDF that can be read: {type(error).__name__}: {error}") from error
    if not text:
        raise UnreadableFile("has no text; a scan has to go through character recognition first")
    return LoadedText(title or "", text.replace("\0", ""))
