"""Classifies the last turn of a conversation, by the turn's own text and by the turns before it."""

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from operator import itemgetter
from typing import TypeVar

import numpy as np

from pointsman_gateway.classification.belief import (
    ForwardPass,
    Reading,
    assistant_features,
    probabilities_of,
    user_features,
)
from pointsman_gateway.classification.belief_parameters import PARAMETERS, BeliefParameters
from pointsman_gateway.classification.reader import FAILED_NOTE, LONG_CHARACTERS, UNFAMILIAR_NOTE, Reader, is_sure
from pointsman_gateway.classification.scores import Scores
from pointsman_gateway.classification.utterances import Utterance, shape_of
from pointsman_gateway.domain import UNKNOWN, Labels

NOTE = "read with the turns before it"

MAX_CACHED = 4096
"""Maximum number of cached turns, and of cached beginnings of conversations. With 100 tasks, a turn takes about 0.5 kB
and a beginning 1 kB."""

Cached = TypeVar("Cached")

UNREAD = Reading(None, 0.0)
"""The `Reading` of a message that is not classified: without probabilities."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of the user in a conversation, with the assistant's message before it."""

    text: str
    said_before: str = ""
    """The assistant's message before the user's message; empty if there was none."""


@dataclass(frozen=True, slots=True)
class Prior:
    """How probable each task is by a conversation's messages before the user's last one."""

    belief: Scores
    """The probability of each task, and last of none, (tasks + 1,)."""
    is_informed: bool
    """Whether the classifier has probabilities for at least one of the user's turns."""


class Conversation:
    """Classifies the last user message of a conversation, with the help of the messages before it.

    Classifications of single messages are cached by the hash of the text, and beliefs (the tasks' probabilities) by the
    hash of all messages before the last one. So the earlier messages of a conversation are rarely classified again. The
    result does not depend on the caches.
    """

    def __init__(self, reader: Reader, parameters: BeliefParameters = PARAMETERS) -> None:
        self._reader, self._parameters = reader, parameters
        self._readings: OrderedDict[bytes, Reading] = OrderedDict()
        self._priors: OrderedDict[bytes, Prior] = OrderedDict()
        self._tasks: tuple[str, ...] = ()
        """The names of the tasks in alphabetical order; empty until a text has been classified with probabilities."""
        self._forward: ForwardPass | None = None
        """The forward pass over the turns; None until a text has been classified with probabilities."""

    async def label(self, turns: Sequence[Turn]) -> Labels:
        """Classifies the last of `turns` (one or more, oldest first) by its own text, and by the turns before it.

        The earlier turns are ignored if the last one is in another language than the examples. They may also be ignored
        if the last turn is clearly about one task, or closes the conversation. If the last turn has no content of its
        own, such as "yes please", and no earlier turn has probabilities, the result is that of the turn before it.
        """
        last, said_before = turns[-1].text, turns[-1].said_before
        if len(turns) == 1:
            return await self._reader.read(last)
        shape = shape_of(last)
        kind = shape.kind
        alone = None if kind is Utterance.BARE else await self._reader.read(last)
        if alone and (_is_foreign(alone) or (kind is Utterance.CLOSING and not alone.abstained)):
            return alone
        reading = self._keep(last, alone, cache=len(last) <= LONG_CHARACTERS) if alone else UNREAD
        prior = await self._prior(turns[:-1], said_before)
        forward = self._forward
        if prior is None or forward is None or (reading.probabilities is None and not prior.is_informed):
            return alone or await self.label(turns[:-1])
        features = np.array(user_features(last, shape, reading, said_before))
        belief = forward.next(prior.belief, probabilities_of(reading, len(self._tasks)), features)
        shares = belief.tolist()
        task = self._task_of(shares)
        stands = alone and task == UNKNOWN and kind is Utterance.WHOLE and is_sure(alone)
        return alone if alone and (stands or task == alone.task) else _labels(self._tasks, task, shares, alone)

    def _task_of(self, shares: Sequence[float]) -> str:
        """Returns the most probable task of a belief, or UNKNOWN if no task is at least as probable as none.

        `shares` are the belief's probabilities: one for each task, and last that of no task.
        """
        *of_tasks, of_none = shares
        most = max(of_tasks)
        return UNKNOWN if most < of_none else self._tasks[of_tasks.index(most)]

    async def _prior(self, turns: Sequence[Turn], said_before: str) -> Prior | None:
        """Returns the belief after `turns` and after `said_before`, the assistant's answer to the last of them.

        Returns None if the classifier has not given probabilities for any text yet.
        """
        assistant_texts = [*[turn.said_before for turn in turns], said_before]
        key = _key(*[turn.text for turn in turns], *assistant_texts)
        known = self._priors.get(key)
        if known is not None:
            self._priors.move_to_end(key)
            return known
        user = [await self._read(turn.text) for turn in turns]
        assistant = [await self._read(text) for text in assistant_texts[1:]]
        if self._forward is None:
            return None
        prior = Prior(
            self._believe(self._forward, turns, user, assistant), any(one.probabilities is not None for one in user)
        )
        if not any(one.is_provisional for one in (*user, *assistant)):
            _add(self._priors, key, prior)
        return prior

    def _believe(
        self, forward: ForwardPass, turns: Sequence[Turn], user: Sequence[Reading], assistant: Sequence[Reading]
    ) -> Scores:
        """Returns the belief after `turns` and the assistant's answer to each of them.

        `user` and `assistant` are the classifications of the turns and of the answers, in the same order.
        """
        tasks, belief = len(self._tasks), None
        for turn, reading, answer in zip(turns, user, assistant, strict=True):
            likely = probabilities_of(reading, tasks)
            features = np.array(user_features(turn.text, shape_of(turn.text), reading, turn.said_before))
            after = forward.first(likely, features) if belief is None else forward.next(belief, likely, features)
            assistant_side = np.array(assistant_features(answer))
            belief = forward.before_next(after, probabilities_of(answer, tasks), assistant_side)
        assert belief is not None  # there is at least one turn
        return belief

    async def _read(self, text: str) -> Reading:
        """Returns the classification of a message before the last turn, from the cache or by one call of the
        classifier.

        Returns `UNREAD` if the message says nothing by itself, such as "yes please".
        """
        if not text or shape_of(text).kind is Utterance.BARE:
            return UNREAD
        known = self._readings.get(key := _key(text))
        if known is None:
            return self._keep(text, await self._reader.classify_once(text))
        self._readings.move_to_end(key)
        return known

    def _keep(self, text: str, labels: Labels, cache: bool = True) -> Reading:
        """Converts the labels of `text` to a reading: `UNREAD` if they have no probabilities.

        Caches it if `cache`, unless it is `UNREAD` or the embedding endpoint failed. A long last turn must not be
        cached, since it is read in parts, and earlier turns as a whole.
        """
        by_task = sorted(labels.probabilities)
        if not by_task:
            return UNREAD
        if self._forward is None:
            self._tasks = tuple(task for task, _ in by_task)
            self._forward = ForwardPass(self._parameters, len(self._tasks))
        shares = np.array([share for _, share in by_task], np.float32)
        reading = Reading(shares, labels.in_distribution_score, FAILED_NOTE in labels.notes)
        if cache and not reading.is_provisional:
            _add(self._readings, _key(text), reading)
        return reading


def _is_foreign(labels: Labels) -> bool:
    """Returns whether a turn is surely in another language than the examples.

    A short text of unknown words is not sure, since such words are often names.
    """
    return labels.stage == "language" and UNFAMILIAR_NOTE not in labels.notes


def _key(*texts: str) -> bytes:
    """Returns a hash of texts in their order."""
    written = f"{[*map(len, texts)]}{''.join(texts)}"  # the lengths tell where each text ends
    return blake2b(written.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _add(cache: OrderedDict[bytes, Cached], key: bytes, value: Cached) -> None:
    cache[key] = value
    if len(cache) > MAX_CACHED:
        cache.popitem(last=False)


def _labels(tasks: Sequence[str], task: str, shares: Sequence[float], alone: Labels | None) -> Labels:
    """Makes labels with this `task`.

    `tasks` and `shares` are the belief: the tasks' names, and their probabilities with that of no task last. `alone`
    are the labels of the last turn by its own text; None if it says nothing by itself.
    """
    *of_tasks, unknown = shares
    total = sum(of_tasks)
    likely = sorted(zip(tasks, (share / total for share in of_tasks), strict=True), key=itemgetter(1), reverse=True)
    confidence = likely[0][1]
    return Labels(
        task=task,
        confidence=confidence,
        probabilities=tuple(likely),
        abstained=task == UNKNOWN,
        stage="conversation",
        vector=alone.vector if alone else None,
        margin=confidence - likely[1][1] if len(likely) > 1 else confidence,
        in_distribution_score=math.log(confidence * total / unknown),
        notes=(NOTE, *(alone.notes if alone else ())),
    )
