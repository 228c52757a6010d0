"""A user's text as a question to SQLite FTS5: words, any of them, never syntax."""

import re

MAX_WORDS = 64  # of a long query; BM25 gains nothing from more, and each costs a scan of its postings

_WORD = re.compile(r"\w+")

# Question words, and words that say nothing of the topic. They are dropped from queries only, for in a document's
# passage they may be part of a name.
_PASSED_OVER = frozenset(
    _WORD.findall(
        """
        a about am an and any are as at be been being but by can could did do does for from had has have he her hers him
        his how i if in into is it its just me may might must my of on or our ours please shall she should so some such
        than that the their theirs them then there these they this those to too us was we were what when where which who
        whom whose why will with would you your yours
        ain aren couldn d didn doesn don hadn hasn haven isn ll m re s shouldn t ve wasn weren won wouldn
        """
    )
)


def to_match(text: str) -> str | None:
    """The MATCH expression for a text; None where it has no word. A text of stop words alone keeps them."""
    words = list(dict.fromkeys(word for word in _WORD.findall(text.lower()) if word.strip("_")))
    telling = [word for word in words if word not in _PASSED_OVER] or words
    return " OR ".join(f'"{word}"' for word in telling[:MAX_WORDS]) or None
