"""The classification stage: a named path needs no classification, then rules are tried, then the classifier.

The classifier reads the last turn of a conversation: alone if it is self-contained, else together with earlier turns.
Nothing is stored between requests. The messages contain the conversation, so every gateway and every replay classifies
it alike.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import filterfalse
from typing import Protocol

from pointsman_servicekit.errors import PointsmanError

from pointsman_gateway.classification import FORCED
from pointsman_gateway.classification.excerpt import CharacterExcerpt, character_excerpt
from pointsman_gateway.classification.reader import (
    COURTESIES,
    FAILED_NOTE,
    FOLLOW_UP_OPENINGS,
    LONG_CHARACTERS,
    NO_CONTENT,
    REFERENCES,
    THANKS,
    LanguageDetector,
    Reader,
    abstention,
    is_sure,
)
from pointsman_gateway.classification.user_words import UserWords, UserWordsFinder
from pointsman_gateway.classification.wrappers import Wrapper, known_wrappers
from pointsman_gateway.config.tasks_file import RuleConfig, TaskConfig
from pointsman_gateway.domain import AUTO, UNKNOWN, Labels, Message, Request
from pointsman_gateway.extensions import Embed
from pointsman_gateway.patterns import Pattern, SearchBudget, SearchTimeout

MAX_TURNS = 5
"""The user's last turns that are considered."""
MAX_SEARCHED_TURNS = 8
"""The user's last messages in which these turns are looked for: some clients send messages without a user's words."""

# The thresholds below were chosen on tests/gateway/development_conversations.jsonl.

MAX_FOLLOW_UP_WORDS = 8
"""A turn that opens like a follow-up but has more words is self-contained."""

MAX_SHORT_WORDS = 6
MAX_SHORT_CONTENT_WORDS = 2
"""A turn within both limits is short: it may depend on earlier turns."""

SHORT_MIN_SCORE = 1.0
"""In-distribution score above the task's threshold that a short turn needs to be classified alone. A few words
resemble something easily."""

MAX_DISTANCE_BELOW_THRESHOLD = 0.8
"""A whole sentence that refers back and scores lower than this below the threshold belongs to no task, whatever came
before. A sentence that does not refer back belongs to none as soon as it is below the threshold."""

NOTE = "read with the turns before it"
MIN_PART_SCORE = 0.5
"""In-distribution score above the threshold that a part of a text needs if other parts may be the user's as well."""
CONTRADICTION_NOTE = "parts of the text belong to different tasks"

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_OPENS = re.compile(rf"\W*(?:{'|'.join(FOLLOW_UP_OPENINGS)})\b", re.IGNORECASE)


class Utterance(Enum):
    """How much a turn of a conversation says without the turns before it."""

    BARE = "bare"
    """ "yes please", "why?", "👍": it says nothing by itself."""
    FOLLOW_UP = "follow_up"
    """ "and by bicycle?": it names something, but the question about it is in an earlier turn."""
    SHORT = "short"
    """ "LM-38271", "shorter, please": it may be self-contained or not."""
    CLOSING = "closing"
    """ "ok, thanks a lot!": it ends the conversation and is not about its subject."""
    WHOLE = "whole"
    """It is self-contained."""


def utterance_type(turn: str) -> Utterance:
    if len(turn) > LONG_CHARACTERS:
        return Utterance.WHOLE
    words = _WORD.findall(turn.lower())
    content = list(filterfalse(NO_CONTENT.__contains__, words))
    if not content:
        return Utterance.BARE
    if not THANKS.isdisjoint(words) and COURTESIES.issuperset(content):
        return Utterance.CLOSING
    if len(words) <= MAX_FOLLOW_UP_WORDS and _OPENS.match(turn):
        return Utterance.FOLLOW_UP
    if len(words) <= MAX_SHORT_WORDS and len(content) <= MAX_SHORT_CONTENT_WORDS:
        return Utterance.SHORT
    return Utterance.WHOLE


def refers_back(turn: str) -> bool:
    """Returns whether the turn contains a word that stands for something named before ("it", "he", "the same")."""
    return not REFERENCES.isdisjoint(_WORD.findall(turn[:LONG_CHARACTERS].lower()))


class Conversation:
    """Classifies the last message of a conversation; uses earlier messages if the last one is unclear alone."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def label(self, turns: Sequence[str]) -> Labels:
        """Classifies the last of `turns`, which are at least one, oldest first."""
        *before, last = turns
        if not before:
            return await self._reader.read(last)
        kind = utterance_type(last)
        if kind is Utterance.BARE:
            return _with_note(await self.label(before))
        alone = await self._reader.read(last)
        if _is_self_contained(alone, last, kind):
            return alone
        context = _context(before)
        thread = await self._reader.classify_once(context[0])
        if thread.abstained:
            return alone if alone.abstained or kind is Utterance.WHOLE else _with_note(thread)
        if alone.task == thread.task:
            return alone
        together = await self._reader.classify_once("\n".join([*context, last]))
        if together.task == alone.task and not alone.abstained and kind is not Utterance.FOLLOW_UP:
            return alone
        return _with_note(together if together.task == thread.task else thread)


def _is_self_contained(alone: Labels, turn: str, kind: Utterance) -> bool:
    """Returns whether the labels of the turn alone hold, without the turns before it."""
    if alone.stage == "language" or kind is Utterance.CLOSING:
        return True
    if kind is Utterance.WHOLE:
        return is_sure(alone) or alone.in_distribution_score < (
            -MAX_DISTANCE_BELOW_THRESHOLD if refers_back(turn) else 0
        )
    return kind is Utterance.SHORT and is_sure(alone) and alone.in_distribution_score >= SHORT_MIN_SCORE


def _context(before: Sequence[str]) -> list[str]:
    """Returns earlier turns to read: the last whole one and the last one with content; if there is none, the first."""
    with_content = [turn for turn in before if utterance_type(turn) is not Utterance.BARE]
    whole = [turn for turn in with_content if utterance_type(turn) is Utterance.WHOLE]
    return list(dict.fromkeys([*whole[-1:], *with_content[-1:]])) or [before[0]]


def _with_note(labels: Labels) -> Labels:
    if NOTE in labels.notes or labels.stage == "language":
        return labels
    return replace(labels, stage="conversation", notes=(NOTE, *labels.notes))


class TextClassifier(Protocol):
    """Assigns a text to one of the tasks, or abstains if the text is unlike all of them."""

    async def classify(self, text: str) -> Labels:
        """Classifies a text. Of a long one only an excerpt is read, and the notes say so."""
        ...

    def glance(self, text: str) -> tuple[str, float] | None:
        """Returns the likeliest task of a short text in microseconds, and its score above the task's threshold.

        None if this cannot be said without the encoder.
        """
        ...


@dataclass(frozen=True, slots=True)
class RuleMatch:
    task: str
    """Empty if no rule matches."""
    rule: str
    notes: tuple[str, ...] = ()


class RuleMatcher:
    """The rules of all tasks, in the order of the configuration; the first that matches a request decides."""

    def __init__(self, tasks: Mapping[str, TaskConfig]) -> None:
        self._rules = [
            (task, rule, Pattern(rule.regex) if rule.regex else None)
            for task, config in tasks.items()
            for rule in config.rules
        ]

    def match(self, request: Request) -> RuleMatch | None:
        """Returns the first rule that matches the request; patterns search only an excerpt of a long text.

        All patterns together have 50 ms. A rule whose pattern takes longer does not match, which the notes say; if no
        other rule matches, the notes are in a RuleMatch without a task.
        """
        if not self._rules:
            return None
        excerpt, budget = character_excerpt(request.query), SearchBudget()
        given_up: tuple[str, ...] = ()
        for task, rule, pattern in self._rules:
            try:
                if _rule_matches(rule, pattern, request, excerpt, budget):
                    return RuleMatch(task, rule.name, (*given_up, *(excerpt.notes if pattern else ())))
            except SearchTimeout as error:
                given_up = (*given_up, f"rule {rule.name}: {error}")
        return RuleMatch("", "", given_up) if given_up else None


class Classification:
    """Assigns a request to a task. The text decides the task only; a path named in it is never looked up."""

    def __init__(
        self,
        rules: RuleMatcher,
        classifier: TextClassifier,
        languages: Collection[str] = ("en",),
        wrappers: Sequence[Wrapper] = (),
    ) -> None:
        """Takes the `languages` of the examples; if there are none, texts in every language are classified.

        `wrappers` are those of the configuration, which are taken away before those of known clients.
        """
        self._rules = rules
        self._words = UserWordsFinder(wrappers, known_wrappers(), classifier.glance)
        self._conversation = Conversation(Reader(classifier.classify, LanguageDetector(languages)))

    async def label(self, request: Request) -> Labels:
        if request.model != AUTO:
            return FORCED
        matched = self._rules.match(request)
        if matched and matched.task:
            stage = f"rule:{matched.rule}"
            return Labels(matched.task, 1.0, (), abstained=False, stage=stage, notes=matched.notes)
        turns = self._turns(request.messages)
        notes = matched.notes if matched else ()
        if not turns:
            return abstention("conversation", *notes, "there is no user message")
        last = turns[-1]
        before = [turn.text for turn in turns[:-1]]
        labels = await self._conversation.label([*before, last.text])
        if last.rivals:
            others = [await self._conversation.label([*before, rival]) for rival in last.rivals]
            labels = _agreed([labels, *others])
        if last.wrappers:
            notes = (*notes, str(last))
        return replace(labels, notes=(*notes, *labels.notes)) if notes else labels

    def read(self, request: Request) -> str:
        """Returns the last turn of the user in the user's own words; empty if there is none."""
        turns = self._turns(request.messages)
        return turns[-1].text if turns else ""

    def _turns(self, messages: Sequence[Message]) -> list[UserWords]:
        """Returns the user's last turns, oldest first, in the user's own words.

        Messages of the system, the assistant and tools are left out, and the user's without words of the user.
        """
        turns: list[UserWords] = []
        for message in [each for each in messages if each.role == "user"][: -MAX_SEARCHED_TURNS - 1 : -1]:
            found = self._words.find(message.content, may_judge=not turns)
            if found.text.strip() or not message.content:
                turns.append(found)
            if len(turns) == MAX_TURNS:
                break
        return turns[::-1]


def _agreed(all_labels: Sequence[Labels]) -> Labels:
    """Returns the labels of the one task that parts of a text belong to; abstains if they belong to several."""
    kept = [labels for labels in all_labels if not labels.abstained and labels.in_distribution_score >= MIN_PART_SCORE]
    if len({labels.task for labels in kept}) > 1:
        return replace(abstention("parts", CONTRADICTION_NOTE), probabilities=kept[0].probabilities)
    return kept[0] if kept else _abstaining(all_labels[0])


def _abstaining(labels: Labels) -> Labels:
    return replace(labels, task=UNKNOWN, abstained=True)


class EmbeddedClassification:
    """Wraps a classification: adds the text's embedding to the labels of tasks whose policy needs it."""

    def __init__(self, inner: Classification, embedding: Embed, tasks: Collection[str]) -> None:
        self._inner, self._embedding, self._tasks = inner, embedding, tasks

    async def label(self, request: Request) -> Labels:
        labels = await self._inner.label(request)
        if labels.task not in self._tasks or labels.vector is not None:
            return labels
        try:
            return replace(labels, vector=await self._embedding.embed(self._inner.read(request)))
        except PointsmanError:
            return replace(labels, notes=(*labels.notes, FAILED_NOTE))


def _rule_matches(
    rule: RuleConfig, pattern: Pattern | None, request: Request, excerpt: CharacterExcerpt, budget: SearchBudget
) -> bool:
    """Returns whether a rule matches; raises SearchTimeout."""
    if any(request.metadata.get(key) != value for key, value in rule.metadata.items()):
        return False
    if rule.has is not None and rule.has not in request.media:
        return False
    if rule.json_schema is not None and rule.json_schema != _asks_for_schema(request):
        return False
    return pattern is None or pattern.is_found_in(excerpt.text, budget.left)


def _asks_for_schema(request: Request) -> bool:
    response_format = request.sampling.extra.get("response_format")
    return isinstance(response_format, Mapping) and response_format.get("type") == "json_schema"
