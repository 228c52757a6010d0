"""Finds the kind of token and the service tier in the names that providers give to the items of their invoices."""

import re

_WORD = re.compile(r"[a-z]+|\d+(?:\.\d+)*")
_INPUT = {"input", "inp", "inpt", "in", "prompt"}
_OUTPUT = {"output", "outp", "outpt", "out", "opt", "completion"}
_CACHED = {"cached", "cchd", "cd", "cache", "cach", "ch", "hit"}
_WRITES = {"write", "writes", "creation"}
_AUDIO, _IMAGE = {"audio", "aud"}, {"image", "img"}
_TIERS = {"flex": "flex", "priority": "priority", "pp": "priority", "batch": "batch"}
_ELSEWHERE = {
    "glbl", "gl", "global", "dz", "dzone", "dzn", "datazone", "data", "zone", "regnl", "rgnl", "regional", "std",
    "text", "token", "tokens", "count", "cross", "region", "geo", "mantle", "standard", "txt", "m", "k", "long",
    "context", "units",
}  # fmt: skip
"""Words in the names of invoice items that are ignored: they say where a model runs or how tokens are counted."""

MEANINGS = _INPUT | _OUTPUT | _CACHED | _WRITES | _AUDIO | _IMAGE | _ELSEWHERE | _TIERS.keys()


def words_of(text: str) -> list[str]:
    """Returns the lower-case words and numbers of a name: ["gpt", "4", "o", "inp"] for "gpt 4o Inp"."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    return _WORD.findall(spaced.lower())


def kind_of(text: str) -> str | None:
    """Returns the kind of token (one of KINDS) that an invoice's text names: "cached" for "cached input".

    Returns None if the text names no kind.
    """
    words = {*words_of(text)}
    if words & _CACHED and words & _WRITES:
        return "cache_write_1h" if "1h" in text.lower() or "hour" in words else "cache_write"
    if words & _CACHED and not words & _OUTPUT:
        return "cached"
    medium = "audio" if words & _AUDIO else "image" if words & _IMAGE else ""
    if words & _OUTPUT:
        return f"completion_{medium}" if medium else "completion"
    if words & _INPUT:
        return f"prompt_{medium}" if medium else "prompt"
    return None


def tier_of(text: str) -> str:
    """Returns the service tier that an invoice's text names: "flex", "priority" or "batch"; empty if it names none."""
    return next((tier for word, tier in _TIERS.items() if word in words_of(text)), "")
