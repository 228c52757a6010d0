"""Estimates how large the automaton of a regular expression is, and so how long a search may take, without compiling
it.
"""

import re

UNICODE_STATES = 300
"""Number of states that a Unicode class such as `\\p{L}` counts as; a character or another class counts as one
state."""

_CLASS = r"\\[pP](?:\{[^}]*\}|.)"
_UNICODE = re.compile(_CLASS, re.DOTALL)
_TOKEN = re.compile(
    rf"(?P<open>\()|(?P<close>\))|\{{(?P<least>\d+)(?P<comma>,(?P<most>\d*))?\}}"
    rf"|(?P<atom>{_CLASS}|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.)",
    re.DOTALL,
)


def pattern_states(pattern: str) -> int:
    """Returns an estimate of the number of states in a regular expression's automaton, with repetitions written out.

    For example, "a{3}" has three states.
    """
    groups, last = [1], 0  # the states of each open group; those of the last atom or group
    for token in _TOKEN.finditer(pattern):
        if token["open"]:
            groups.append(0)
        elif token["close"]:
            last = groups.pop() if len(groups) > 1 else 0
            groups[-1] += last
        elif token["least"]:
            times = max(int(token["least"]) + (token["comma"] == ","), int(token["most"] or 0))
            groups[-1] += last * max(times - 1, 0)
            last *= times
        else:
            last = max(UNICODE_STATES * len(_UNICODE.findall(token["atom"])), 1)
            groups[-1] += last
    return sum(groups)
