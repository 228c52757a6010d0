"""The classification stage, which finds the task of a request.

Only a request for the model `auto` is classified. The rules are tried first; if none matches, the classifier decides.
It reads the user's own words in the user's last turns, and the assistant's messages before them. Every gateway and
every replay with the same configuration and the same samples of documents gets the same result, unless a rule's pattern
takes too long or the embedding endpoint fails.
"""

from collections.abc import Callable, Collection, Sequence
from copy import copy
from dataclasses import replace
from typing import Protocol

from pointsman_servicekit.errors import PointsmanError

from pointsman_gateway.classification import FORCED
from pointsman_gateway.classification.conversation import Conversation, Turn
from pointsman_gateway.classification.reader import FAILED_NOTE, LanguageDetector, Reader, abstention
from pointsman_gateway.classification.rules import RuleMatcher
from pointsman_gateway.classification.user_words import UserWords, UserWordsFinder
from pointsman_gateway.classification.wrappers import Wrapper, known_wrappers
from pointsman_gateway.domain import AUTO, UNKNOWN, Labels, Message, Request
from pointsman_gateway.extensions import Embed
from pointsman_gateway.ports import Classifier

MAX_TURNS = 5
"""Maximum number of the user's last turns by which a request is classified."""
MAX_SEARCHED_TURNS = 8
"""Maximum number of the user's last messages that are searched for turns; some have none of the user's own words."""

MIN_PART_SCORE = 0.5
"""Least in-distribution score above the threshold for a part to decide, if several parts may be the user's words."""
CONTRADICTION_NOTE = "parts of the text belong to different tasks"


class TextClassifier(Protocol):
    """Interface of a classifier, which assigns a text to one of the tasks, or abstains if the text is unlike all tasks;
    `CascadeClassifier` implements it.
    """

    async def classify(self, text: str, *, is_foreign: bool = False) -> Labels:
        """Classifies a text. Of a long text only an excerpt is used, and the labels' notes say so.

        `is_foreign` means that the text is in another language than the examples: then the encoder stage decides alone.
        """
        ...

    def glance(self, text: str) -> tuple[str, float] | None:
        """Returns (most probable task, in-distribution score minus the task's threshold) for a short text.

        Uses only the static stage, which takes microseconds. Returns None without such a stage, or without a known
        word.
        """
        ...


class Classification:
    """Assigns a request to a task, by rules, or by the classifier and the earlier turns; implements `Classifier`."""

    def __init__(
        self,
        rules: RuleMatcher,
        classifier: TextClassifier,
        languages: Collection[str] = ("en",),
        wrappers: Sequence[Wrapper] = (),
        *,
        knows_word: Callable[[str], bool] | None = None,
        is_multilingual: bool = False,
    ) -> None:
        """`languages` are the ISO 639-1 codes of the examples' languages. A text surely in another language is not
        classified, unless `languages` is empty, or `is_multilingual` says that the encoder is multilingual.

        `wrappers`, from the configuration, describe texts that clients write around a user's words. They are removed
        first, then those of known clients (`wrappers.toml`). `knows_word` returns whether a lower-case word is English
        or one of the examples'.
        """
        self._rules = rules
        self._words = UserWordsFinder(wrappers, known_wrappers(), classifier.glance)
        self._reader = Reader(classifier.classify, LanguageDetector(languages, knows_word), is_multilingual)
        self._conversation = Conversation(self._reader)

    def with_classifier(self, classifier: TextClassifier) -> "Classification":
        """Returns a copy of this stage, with empty caches, that classifies texts with `classifier`.

        `classifier.glance` must return the same as the `glance` of this stage's classifier, which the copy still uses.
        """
        other = copy(self)
        other._reader = self._reader.with_classifier(classifier.classify)
        other._conversation = Conversation(other._reader)
        return other

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
        last, said_before = turns[-1]
        before = _conversation(turns[:-1])
        labels = await self._conversation.label([*before, Turn(last.text, said_before)])
        if last.rivals:
            others = [await self._conversation.label([*before, Turn(rival, said_before)]) for rival in last.rivals]
            labels = _agreed([labels, *others])
        if last.wrappers:
            notes, labels = (*notes, str(last)), replace(labels, user_words=last.text)
        return replace(labels, notes=(*notes, *labels.notes)) if notes else labels

    def read(self, request: Request) -> str:
        """Returns the user's own words in the last message, without what clients write around them; empty if there are
        none.
        """
        turns = self._turns(request.messages)
        return turns[-1][0].text if turns else ""

    def turns(self, request: Request) -> list[Turn]:
        """Returns the user's turns by which a request is classified, oldest first: at most `MAX_TURNS`, found in the
        user's last `MAX_SEARCHED_TURNS` messages.
        """
        return _conversation(self._turns(request.messages))

    def _turns(self, messages: Sequence[Message]) -> list[tuple[UserWords, str]]:
        """Returns the user's last turns, oldest first, as (the user's own words, the assistant's message before them).

        Messages of the system and of tools are left out, as are examples that some clients send before a conversation.
        A user message without any of the user's own words is left out with the assistant's answer to it, but an empty
        message counts as a turn.
        """
        turns: list[tuple[UserWords, str]] = []
        searched = 0
        for message in reversed(messages):
            if message.role == "assistant" and turns and not turns[-1][1]:
                turns[-1] = (turns[-1][0], message.content)
            if message.role != "user":
                continue
            is_start = self._words.restarts(message.content)
            found = self._words.find(message.content, may_judge=not turns)
            if (found.text.strip() or not message.content) and not is_start:
                turns.append((found, ""))
            elif turns:
                turns[-1] = (turns[-1][0], "")
            if is_start:
                break
            searched += 1
            if len(turns) == MAX_TURNS or searched == MAX_SEARCHED_TURNS:
                break
        return turns[::-1]


def _conversation(turns: Sequence[tuple[UserWords, str]]) -> list[Turn]:
    return [Turn(words.text, said_before) for words, said_before in turns]


def _agreed(all_labels: Sequence[Labels]) -> Labels:
    """Returns the labels of a text of which several parts may be the user's words; `all_labels` has the labels of each.

    Parts count if they have a task with a score of at least `MIN_PART_SCORE`. Returns the first labels of such parts,
    or an abstention if such parts have different tasks. If no part counts, returns the first labels as an abstention.
    """
    kept = [labels for labels in all_labels if not labels.abstained and labels.in_distribution_score >= MIN_PART_SCORE]
    if len({labels.task for labels in kept}) > 1:
        return replace(abstention("parts", CONTRADICTION_NOTE), probabilities=kept[0].probabilities)
    return kept[0] if kept else _abstaining(all_labels[0])


def _abstaining(labels: Labels) -> Labels:
    return replace(labels, task=UNKNOWN, abstained=True)


class WordReader(Classifier, Protocol):
    """Interface of a classification stage that reads the user's words; `Classification` implements it."""

    def read(self, request: Request) -> str: ...


class EmbeddedClassification:
    """Wraps a classification stage, and adds the embedding of the user's last turn to labels without one.

    It does so only for labels whose task is one of `tasks`: the tasks whose policies need the embedding. The task of an
    abstention is `UNKNOWN`. If the embedding fails, the labels get a note instead. Implements `Classifier`.
    """

    def __init__(self, inner: WordReader, embedding: Embed, tasks: Collection[str]) -> None:
        self._inner, self._embedding, self._tasks = inner, embedding, tasks

    async def label(self, request: Request) -> Labels:
        labels = await self._inner.label(request)
        if labels is FORCED or labels.task not in self._tasks or labels.vector is not None:
            return labels
        try:
            return replace(labels, vector=await self._embedding.embed(self._inner.read(request)))
        except PointsmanError:
            return replace(labels, notes=(*labels.notes, FAILED_NOTE))
