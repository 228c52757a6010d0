"""Classifies the last turn of a conversation, by what it says itself and the task that the conversation has."""

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from operator import itemgetter

import numpy as np

from pointsman_gateway.classification.belief import (
    Reading,
    TurnObservations,
    assistant_features,
    believe,
    stack,
    user_features,
)
from pointsman_gateway.classification.belief_parameters import PARAMETERS, BeliefParameters
from pointsman_gateway.classification.reader import FAILED_NOTE, LONG_CHARACTERS, Reader, is_sure
from pointsman_gateway.classification.scores import Scores
from pointsman_gateway.classification.utterances import Utterance, utterance_type
from pointsman_gateway.domain import UNKNOWN, Labels

NOTE = "read with the turns before it"

MAX_CACHED_READINGS = 4096
"""About 0.5 kB each, with 100 tasks."""

UNREAD = Reading(None, 0.0)
"""The reading of a turn that is not classified."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn of the user."""

    text: str
    said_before: str = ""
    """The assistant's message before it; empty if there was none."""


class Conversation:
    """Classifies the last message of a conversation.

    The classifier's result for each turn is cached by the hash of its text, so that only a conversation's new turns are
    classified. The result does not depend on the cache.
    """

    def __init__(self, reader: Reader, parameters: BeliefParameters = PARAMETERS) -> None:
        self._reader, self._parameters = reader, parameters
        self._readings: OrderedDict[bytes, Reading] = OrderedDict()
        self._tasks: tuple[str, ...] = ()
        """In alphabetical order; empty before the first reading."""

    async def label(self, turns: Sequence[Turn]) -> Labels:
        """Classifies the last of `turns` (one or more, oldest first) in the light of the others."""
        last = turns[-1].text
        if len(turns) == 1:
            return await self._reader.read(last)
        kind, alone = utterance_type(last), await self.alone(last)
        if alone and (alone.stage == "language" or (kind is Utterance.CLOSING and not alone.abstained)):
            return alone
        observations = await self.observations(turns, alone)
        if observations is None:
            return alone or await self.label(turns[:-1])
        labels = _labels(self._tasks, believe(observations, self._parameters), alone)
        stands = alone and labels.abstained and kind is Utterance.WHOLE and is_sure(alone)
        return alone if alone and (stands or labels.task == alone.task) else labels

    async def alone(self, turn: str) -> Labels | None:
        """Classifies a turn by itself; returns None if it has no content of its own, such as "yes please"."""
        return None if utterance_type(turn) is Utterance.BARE else await self._reader.read(turn)

    async def observations(self, turns: Sequence[Turn], alone: Labels | None) -> TurnObservations | None:
        """Returns the probabilities and features of `turns`; None if none of the user's turns can be classified.

        `alone` is the result of `alone()` for the last one.
        """
        user = [await self._read(turn.text) for turn in turns[:-1]]
        last = turns[-1].text
        user.append(self._keep(last, alone, cache=len(last) <= LONG_CHARACTERS) if alone else UNREAD)
        assistant = [UNREAD, *[await self._read(turn.said_before) for turn in turns[1:]]]
        if all(one.probabilities is None for one in user):
            return None
        return TurnObservations(
            stack(user, len(self._tasks)),
            np.array([user_features(turn.text, one, turn.said_before) for turn, one in zip(turns, user, strict=True)]),
            stack(assistant, len(self._tasks)),
            np.array([assistant_features(one) for one in assistant]),
        )

    async def _read(self, text: str) -> Reading:
        """Returns the reading of a turn before the last, from the cache or by one classification."""
        if not text or utterance_type(text) is Utterance.BARE:
            return UNREAD
        known = self._readings.get(key := _key(text))
        if known is None:
            return self._keep(text, await self._reader.classify_once(text))
        self._readings.move_to_end(key)
        return known

    def _keep(self, text: str, labels: Labels, cache: bool = True) -> Reading:
        """Returns the reading in `labels`; caches it if `cache`, unless the embedding endpoint failed.

        A long last turn is not cached, because it is read in parts.
        """
        by_task = sorted(labels.probabilities)
        if not by_task:
            return UNREAD
        self._tasks = self._tasks or tuple(task for task, _ in by_task)
        reading = Reading(np.array([share for _, share in by_task], np.float32), labels.in_distribution_score)
        if cache and FAILED_NOTE not in labels.notes:
            self._readings[_key(text)] = reading
            if len(self._readings) > MAX_CACHED_READINGS:
                self._readings.popitem(last=False)
        return reading


def _key(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _labels(tasks: Sequence[str], belief: Scores, alone: Labels | None) -> Labels:
    *shares, unknown = belief.tolist()
    total = sum(shares)
    likely = sorted(zip(tasks, (share / total for share in shares), strict=True), key=itemgetter(1), reverse=True)
    best, confidence = likely[0]
    score = math.log(confidence * total / unknown)
    return Labels(
        task=UNKNOWN if score < 0 else best,
        confidence=confidence,
        probabilities=tuple(likely),
        abstained=score < 0,
        stage="conversation",
        vector=alone.vector if alone else None,
        margin=confidence - likely[1][1] if len(likely) > 1 else confidence,
        in_distribution_score=score,
        notes=(NOTE, *(alone.notes if alone else ())),
    )
