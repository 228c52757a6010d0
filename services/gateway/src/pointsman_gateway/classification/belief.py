"""Computes the belief: how probable it is that a conversation is about each task, or about no task, after each turn.

This is the forward pass of a hidden Markov model whose transitions depend on the turn (Bengio and Frasconi,
Input-output HMMs, 1996). The hidden state is the conversation's task, or no task. Each further turn of the user updates
the belief in three steps. The assistant's message before the turn counts first: it is about the task so far. Then comes
the probability that the user has changed to another task, and last the classification of the user's turn. The second
and the third step also depend on how well the turn fits the belief before it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from operator import mul
from typing import TypeAlias

import numpy as np

from pointsman_gateway.classification.belief_parameters import CONTEXT, BeliefParameters
from pointsman_gateway.classification.scores import Floats, Scores
from pointsman_gateway.classification.utterances import Shape, Utterance, is_question

Number: TypeAlias = Scores | float
"""A number for one conversation, or an array with one number for each of several conversations."""

MAX_SCORE = 3.0
"""Features use in-distribution scores (how similar a text is to the tasks' examples, minus the threshold for
abstaining) only within -`MAX_SCORE` and +`MAX_SCORE`; scores beyond are cut to this limit.
"""
MAX_FOLLOW_UP_SCORE = 0.5
"""Replaces `MAX_SCORE` for follow-ups, such as "and by bicycle?", whose few words say little about the task.

A high score is often a coincidence, and a low score does not show that the follow-up has left the conversation's task.
"""
MIN_RATIO = 0.05
"""Added to the ratio of a task's probability to the mean probability of all tasks, so that the ratio is never 0."""
TYPICAL_LOG_WORDS = 2.0
"""log(number of words + 1) of a turn of usual length, about 6 words; `user_features` subtracts it."""
MAX_COUNTED_CHARACTERS = 1_000
"""The words of a turn are counted only in this number of characters at its beginning."""
NO_CONTEXT = (0.0,) * CONTEXT
"""The `context_features` of a conversation's first turn, which has no belief before it: zeros."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the classifier found for one message of a conversation, without regard to the other messages."""

    probabilities: Floats | None
    """The probability of each task, (tasks,), in the order of their names; None if the turn is not classified: it has
    no content, or is in no known language."""
    score: float
    """The in-distribution score (how similar the message is to the tasks' examples) minus the threshold below which the
    classifier abstains.
    """
    is_provisional: bool = False
    """Whether the encoder failed, so that the result comes from the classifier's static stage (word vectors) alone."""


@dataclass(frozen=True, slots=True)
class TurnObservations:
    """The input of `believe`: arrays with one row for each turn of the user, oldest first.

    For several conversations with the same number of turns, all arrays have the same further axes before the axis of
    the turns.
    """

    user: Scores
    """The classifier's probability of each task for each turn of the user, (turns, tasks)."""
    user_features: Scores
    """The features of the user's turns, (turns, 10); see `user_features`."""
    assistant: Scores
    """The classifier's probability of each task for the assistant's message before each turn, (turns, tasks)."""
    assistant_features: Scores
    """The features of the assistant's message before each turn, (turns, 3), see `assistant_features`; zeros for a turn
    without such a message.
    """


def user_features(turn: str, shape: Shape, reading: Reading, said_before: str) -> list[float]:
    """Returns the 10 features of a user's turn.

    `shape` is the result of `shape_of` for the turn, `reading` the classifier's result, and `said_before` the
    assistant's message before the turn. In order, the features are:
    * the constant 1;
    * the reading's score, limited to `MAX_SCORE` in both directions (of a follow-up to `MAX_FOLLOW_UP_SCORE`);
    * the difference between the reading's two highest probabilities, 0 without probabilities;
    * log(number of words + 1) - `TYPICAL_LOG_WORDS`;
    * whether the turn's kind is `WHOLE`, `BARE`, `CLOSING` or `FOLLOW_UP` (four booleans);
    * whether the turn refers back to something named before;
    * whether `said_before` ends with a question mark.
    """
    kind = shape.kind
    return [
        1.0,
        _cut(reading.score, MAX_FOLLOW_UP_SCORE if kind is Utterance.FOLLOW_UP else MAX_SCORE),
        _margin(reading.probabilities),
        math.log1p(len(turn[:MAX_COUNTED_CHARACTERS].split())) - TYPICAL_LOG_WORDS,
        kind is Utterance.WHOLE,
        kind is Utterance.BARE,
        kind is Utterance.CLOSING,
        kind is Utterance.FOLLOW_UP,
        shape.refers_back,
        is_question(said_before),
    ]


def assistant_features(reading: Reading) -> list[float]:
    """Returns the 3 features of an assistant's message, whose classification is `reading`.

    They are 1, the score of `reading`, cut to at most `MAX_SCORE` in both directions, and the difference between the
    two highest probabilities. All three are 0 if `reading` has no probabilities.
    """
    if reading.probabilities is None:
        return [0.0] * 3
    return [1.0, _cut(reading.score, MAX_SCORE), _margin(reading.probabilities)]


def context_features(before: Scores, user: Scores) -> list[Number]:
    """Returns the 3 features that show how well a user's turn fits the belief before it.

    `before` is the belief, (tasks + 1,), and `user` the tasks' probabilities by the turn alone, (tasks,). The features
    are:
    * the probability of no task in `before`;
    * the highest probability of a task in `before`;
    * the logarithm of the agreement of `before` and `user`: the sum over the tasks of the product of both
      probabilities, times the number of tasks, plus `MIN_RATIO`.
    """
    tasks = before[..., :-1]
    agreement = np.vecdot(tasks, user) * user.shape[-1] + MIN_RATIO
    return [_number(before[..., -1]), _number(np.maximum.reduce(tasks, axis=-1)), _log(_number(agreement))]


class ForwardPass:
    """Computes a conversation's belief turn by turn: how probable each task is, and how probable no task is.

    Call `first` for the first turn of the user, then `before_next` and `next` for each further turn. A belief has the
    shape (tasks + 1,), with the probability of no task last; probabilities by task have the shape (tasks,). For several
    conversations at once, all arrays may have the same further axes in front.
    """

    def __init__(self, parameters: BeliefParameters, tasks: int) -> None:
        fields = (parameters.says, parameters.stays, parameters.unknown)
        self._of_features = _matrix([weights[:-CONTEXT] for weights in fields])
        self._of_context = [weights[-CONTEXT:] for weights in fields]
        self._assistant_says, self._assistant_unknown = map(
            np.asarray, (parameters.assistant_says, parameters.assistant_unknown)
        )
        unknown = _sigmoid(float(parameters.starts_unknown[0]))
        self._starts = np.append(np.full(tasks, (1 - unknown) / tasks), unknown)

    def first(self, user: Scores, features: Scores) -> Scores:
        """Returns the probabilities of all tasks, and last of none, after the user's first turn: (tasks + 1,).

        `user` are the classifier's probabilities for this turn, (tasks,); `features` are those of `user_features`.
        """
        says, _, unknown = self._sums(features, NO_CONTEXT)
        return _normalized(self._starts * _likelihood(user, _softplus(says), unknown))

    def before_next(self, belief: Scores, assistant: Scores, features: Scores) -> Scores:
        """Returns the probabilities of all tasks, and last of none, updated by an assistant's message: (tasks + 1,).

        `belief` are those before it. `assistant` are the classifier's probabilities for the message, (tasks,);
        `features` are those of `assistant_features`.
        """
        weight = _softplus(features @ self._assistant_says) * features[..., 0]
        return _normalized(belief * _likelihood(assistant, weight, features[..., :2] @ self._assistant_unknown))

    def next(self, before: Scores, user: Scores, features: Scores) -> Scores:
        """Returns the probabilities of all tasks, and last of none, updated by a further turn of the user: (tasks +
        1,).

        `before` is the result of `before_next`. `user` are the classifier's probabilities for the turn, (tasks,);
        `features` are those of `user_features`.
        """
        says, stays, unknown = self._sums(features, context_features(before, user))
        stay = _column(_sigmoid(stays))
        prior = stay * before + (1 - stay) * self._starts
        return _normalized(prior * _likelihood(user, _softplus(says), unknown))

    def _sums(self, features: Scores, context: Sequence[Number]) -> list[Number]:
        """Returns three weighted sums of a turn's features and context, for the parameters `says`, `stays` and
        `unknown`.

        `BeliefParameters` explains the three.
        """
        sums = features @ self._of_features
        of_features = sums.tolist() if sums.ndim == 1 else np.moveaxis(sums, -1, 0)
        return [
            of_turn + sum(map(mul, weights, context))
            for of_turn, weights in zip(of_features, self._of_context, strict=True)
        ]


def believe(observations: TurnObservations, parameters: BeliefParameters) -> Scores:
    """Returns the belief after the last turn of `observations`: the probability of each task, and last of no task.

    The result has the shape (tasks + 1,), with the further axes of `observations` in front. The assistant's message
    before the first turn is ignored.
    """
    user, features = np.moveaxis(observations.user, -2, 0), np.moveaxis(observations.user_features, -2, 0)
    assistant, of_assistant = (
        np.moveaxis(each, -2, 0) for each in (observations.assistant, observations.assistant_features)
    )
    forward = ForwardPass(parameters, user.shape[-1])
    belief = forward.first(user[0], features[0])
    for turn in range(1, len(user)):
        before = forward.before_next(belief, assistant[turn], of_assistant[turn])
        belief = forward.next(before, user[turn], features[turn])
    return belief


def probabilities_of(reading: Reading, tasks: int) -> Scores:
    """Returns the probabilities of `reading`, (tasks,); if it has none, each of the `tasks` tasks gets 1 / `tasks`."""
    if reading.probabilities is None:
        return np.full(tasks, 1 / tasks)
    return reading.probabilities


def _likelihood(probabilities: Scores, weight: Number, log_unknown: Number) -> Scores:
    """Returns the likelihood of a turn given each task, and last given no task, up to a common factor: (tasks + 1,).

    A task's likelihood is (the ratio of its probability to the mean of all + `MIN_RATIO`) to the power of `weight`,
    normalized to 1 for the ratio 1. The likelihood of no task is the exponential of `log_unknown`.
    """
    tasks = probabilities.shape[-1]
    likelihood = np.empty((*probabilities.shape[:-1], tasks + 1))
    of_tasks = likelihood[..., :-1]
    np.multiply(probabilities, tasks / (1 + MIN_RATIO), out=of_tasks, dtype=np.float64)
    of_tasks += MIN_RATIO / (1 + MIN_RATIO)
    of_tasks **= _column(weight)
    likelihood[..., -1] = _exp(log_unknown)
    return likelihood


def _normalized(belief: Scores) -> Scores:
    return np.asarray(belief / np.add.reduce(belief, axis=-1, keepdims=True))


def _matrix(columns: Sequence[Sequence[float]]) -> Scores:
    """Returns a matrix with these columns; zeros fill up shorter ones."""
    return np.array(list(zip_longest(*columns, fillvalue=0.0)))


# The functions below take arrays, or one number, for which they are several times faster.
def _number(values: Scores) -> Number:
    """Returns an array without axes as a number, and another as it is."""
    return values if values.ndim else float(values)


def _column(values: Number) -> Number:
    return values if isinstance(values, float) else values[..., None]


def _log(values: Number) -> Number:
    return math.log(values) if isinstance(values, float) else np.asarray(np.log(values))


def _exp(values: Number) -> Number:
    return math.exp(values) if isinstance(values, float) else np.asarray(np.exp(values))


def _sigmoid(values: Number) -> Number:
    return 1 / (1 + _exp(-values))


def _softplus(values: Number) -> Number:
    return math.log1p(math.exp(values)) if isinstance(values, float) else np.asarray(np.log1p(np.exp(values)))


def _cut(score: float, most: float) -> float:
    return min(max(score, -most), most)


def _margin(probabilities: Floats | None) -> float:
    if probabilities is None or len(probabilities) < 2:
        return 0.0
    ordered = probabilities.copy()
    ordered.partition(-2)
    return float(ordered[-1] - ordered[-2])
