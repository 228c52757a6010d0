"""What two texts have in common that differ by case, spaces or the way a letter is written alone."""

import unicodedata


def plain(text: str) -> str:
    """Compatibility form, case folded, one space between words, none around them."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
