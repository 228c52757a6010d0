"""Chooses the part of a structured text that is most likely the user's own words.

A part's score is how much it resembles the examples of the tasks, by the classifier's static stage. A tag, heading,
label or field that names the part's author raises or lowers the score. The score is also lower if the part reads like
an instruction to a model, has few letters, or has few words and an unknown author.
"""

import re
from collections.abc import Callable, Sequence

from pointsman_gateway.classification.authors import Author, instructs_model
from pointsman_gateway.classification.blocks import Part
from pointsman_gateway.classification.utterances import Utterance, shape_of

MIN_LETTERS = 0.6
"""A part with a smaller share of letters among its characters, without spaces, counts as data, such as a list of files,
numbers or times.
"""

# What is added to a part's score. Chosen on the development messages of benchmarks/requests.
BONUS_OF_USER = 0.5
PENALTY_OF_OTHERS = 1.5  # also of a history
PENALTY_OF_INSTRUCTIONS = 1.0
PENALTY_OF_DATA = 1.0
PENALTY_OF_FEW_WORDS = 1.0
MIN_WORDS = 3
MAX_AMBIGUOUS_CHARACTERS = 240
"""Even if a part is named as the user's, the whole text can be chosen instead, if it has at most this many
characters.
"""
UNREAD_SCORE = -3.0
MAX_RIVALS = 2
MIN_LEAD = 0.5
"""A part about another task than the best part is its rival if its score is lower by at most this much."""

_OF_AUTHORS = {
    Author.USER: BONUS_OF_USER,
    Author.HISTORY: -PENALTY_OF_OTHERS,
    Author.OTHERS: -PENALTY_OF_OTHERS,
}
_WITHOUT_SUBJECT = (Utterance.BARE, Utterance.CLOSING)
_WORD = re.compile(r"[^\W\d_]+")
_IDENTIFIER = re.compile(r"(?=\S*[\d_/@\\])\S+")

Glance = Callable[[str], tuple[str, float] | None]
"""A function that returns (most probable task of a text, the text's in-distribution score minus the task's threshold).

It returns None if the text has no known word. `CascadeClassifier.glance` is such a function.
"""


def choose_parts(parts: Sequence[Part], glance: Glance) -> list[Part]:
    """Returns the part that is most likely the user's own words, followed by its rivals.

    The part with the highest score is chosen: the score of `glance`, plus a bonus or minus penalties, for example for
    the part's author. A part of the user for which `glance` returns None gets `UNREAD_SCORE` if it has at least
    `MIN_WORDS` words. Of parts with the same label, only the last is a candidate. The candidates are the first of these
    groups that has a part with a score:
    1. parts of the user's present message (`Author.USER`) that are no instructions to a model;
    2. parts of the user's earlier messages (`Author.EARLIER`) that are no instructions to a model;
    3. all parts for which `glance` returns a score.
    If `glance` returns a score for a part of group 1 or 2, the part that is the whole text (`Part.is_whole`) is a
    candidate as well, unless it has more than `MAX_AMBIGUOUS_CHARACTERS`. Without candidates the result is empty.

    Rivals are up to `MAX_RIVALS` other candidates, best first, whose most probable task is another one, and whose score
    is lower by at most `MIN_LEAD`. There are none if the best score is below 0, or if the whole text is chosen.
    """
    last = [*{part.label or number: part for number, part in enumerate(parts)}.values()]  # of each label
    whole = [part for part in last if part.is_whole]
    named = [part for part in last if not instructs_model(part.text)]
    of_user = [[part for part in named if part.author is author] for author in (Author.USER, Author.EARLIER)]
    judged = next(filter(None, (_judged(some, glance) or _unread(some) for some in of_user)), [])
    best = judged or _judged(last, glance)
    if judged and whole and len(whole[0].text) <= MAX_AMBIGUOUS_CHARACTERS and judged[0][1]:
        best += _judged(whole, glance)
    if not best:
        return []
    best.sort(key=lambda each: (-each[0], len(each[2].text)))
    score, task, part = best[0]
    rivals = [
        other
        for of_other, other_task, other in best
        if other_task != task and of_other >= score - MIN_LEAD and not other.is_whole
    ]
    return [part, *(rivals[:MAX_RIVALS] if score >= 0 and not part.is_whole else ())]


def _judged(parts: Sequence[Part], glance: Glance) -> list[tuple[float, str, Part]]:
    """Returns (score, most probable task, part) for each part that has a known word. The score is that of `glance` with
    the part's bonus and penalties.
    """
    judged = [(glance(part.text), part) for part in parts]
    return [(found[1] + _addition(part), found[0], part) for found, part in judged if found]


def _unread(parts: Sequence[Part]) -> list[tuple[float, str, Part]]:
    """Returns parts of at least `MIN_WORDS` words as (`UNREAD_SCORE`, "", part).

    It is used for parts without a known word, as in another language than the examples.
    """
    return [(UNREAD_SCORE, "", part) for part in parts if len(_WORD.findall(part.text)) >= MIN_WORDS]


def _addition(part: Part) -> float:
    """Returns the sum that is added to a part's score: a bonus or a penalty for its author, and penalties for an
    instruction, for data and for few words.
    """
    characters = "".join(part.text.split())
    has_few_letters = sum(map(str.isalpha, characters)) < MIN_LETTERS * len(characters)
    is_data = has_few_letters or bool(_IDENTIFIER.fullmatch(part.text))
    of_author = _OF_AUTHORS.get(part.author, 0.0)
    is_short = part.author is Author.UNKNOWN and len(_WORD.findall(part.text)) < MIN_WORDS
    has_few_words = is_short or shape_of(part.text).kind in _WITHOUT_SUBJECT
    if part.is_whole:
        is_data = has_few_words = False
    of_kind = PENALTY_OF_INSTRUCTIONS * instructs_model(part.text) + PENALTY_OF_DATA * is_data
    return of_author - of_kind - PENALTY_OF_FEW_WORDS * has_few_words
