"""Computes the belief: the probabilities that a conversation is about each task, or about none, after each turn.

This is the forward pass of a hidden Markov model whose transitions depend on the turn (Bengio and Frasconi,
Input-output HMMs, 1996). The state is the task, or none. After the first turn of the user, each further turn updates
the belief in three steps: with the assistant's message before the turn, which is about the task so far; with the
probability that the user has left this task; and with what the user says. The last two also depend on how the turn fits
the belief before it.
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
"""A number for one conversation, or an array with one for each of several conversations."""

MAX_SCORE = 3.0
"""In-distribution scores are cut to this distance from the threshold."""
MAX_FOLLOW_UP_SCORE = 0.5
"""The same limit as `MAX_SCORE`, for follow-ups. Their few words easily resemble something; and if they resemble
nothing, they may belong to the conversation's task all the same."""
MIN_RATIO = 0.05
"""Added to the ratio of a task's probability to the mean of all tasks, which may be 0."""
TYPICAL_LOG_WORDS = 2.0
"""log(number of words + 1) of a turn of usual length."""
MAX_COUNTED_CHARACTERS = 1_000
"""The words of a turn are counted only in this number of characters at its beginning."""
NO_CONTEXT = (0.0,) * CONTEXT
"""The `context_features` of a first turn."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the classifier found for one message of a conversation, by that message alone."""

    probabilities: Floats | None
    """The probability of each task, (tasks,), in the order of their names; None if the turn is not classified: it has
    no content, or is in no known language."""
    score: float
    """The in-distribution score minus its threshold."""
    is_provisional: bool = False
    """Whether the encoder did not answer, so that the result is based on the static stage alone."""


@dataclass(frozen=True, slots=True)
class TurnObservations:
    """The input of `believe`: arrays with one row for each turn of the user, oldest first. All may have further axes in
    front, for several conversations with the same number of turns.
    """

    user: Scores
    """The tasks' probabilities by the user's turn, (turns, tasks)."""
    user_features: Scores
    """The features of the user's turns, (turns, 10); see `user_features`."""
    assistant: Scores
    """The tasks' probabilities by what the assistant said before that turn, (turns, tasks)."""
    assistant_features: Scores
    """The features of the assistant's turns, (turns, 3), see `assistant_features`; zeros if the assistant said
    nothing."""


def user_features(turn: str, shape: Shape, reading: Reading, said_before: str) -> list[float]:
    """Returns the 10 features of a user's turn. `shape` is what `shape_of` returns for it, `reading` the classifier's
    result, and `said_before` the assistant's message before it. In order, the features are:
    * 1;
    * the reading's score, limited to `MAX_SCORE` in both directions (of a follow-up to `MAX_FOLLOW_UP_SCORE`);
    * the difference between the reading's two highest probabilities, 0 without probabilities;
    * log(number of words + 1) - `TYPICAL_LOG_WORDS`;
    * whether the turn's kind is `WHOLE`, `BARE`, `CLOSING` or `FOLLOW_UP` (four booleans);
    * whether the turn refers back;
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
    """Returns the 3 features of an assistant's message: 1, the score of `reading`, cut to at most `MAX_SCORE` in both
    directions, and the difference between its two highest probabilities. They are zeros if it has no probabilities.
    """
    if reading.probabilities is None:
        return [0.0] * 3
    return [1.0, _cut(reading.score, MAX_SCORE), _margin(reading.probabilities)]


def context_features(before: Scores, user: Scores) -> list[Number]:
    """Returns the 3 features of how a user's turn fits the belief before it.

    `before` is that belief, (tasks + 1,), and `user` the tasks' probabilities by the turn, (tasks,). The features are
    the probability of no task and the highest of a task, both before the turn, and the logarithm of how well both
    agree: of the sum of their products times the number of tasks, raised by `MIN_RATIO`.
    """
    tasks = before[..., :-1]
    agreement = np.vecdot(tasks, user) * user.shape[-1] + MIN_RATIO
    return [_number(before[..., -1]), _number(np.maximum.reduce(tasks, axis=-1)), _log(_number(agreement))]


class ForwardPass:
    """Computes turn by turn the belief: how probable it is that a conversation is about each task, or about none.

    Call `first` for the first turn, then `before_next` and `next` for each further turn. A belief has the shape
    (tasks + 1,), with the probability of no task last; probabilities by task have the shape (tasks,). All arrays may
    have further axes in front, for several conversations.
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
        """Returns the weighted sums of a turn's features and context: those for how much the turn counts, for staying
        with the task, and for the likelihood of no task.
        """
        sums = features @ self._of_features
        of_features = sums.tolist() if sums.ndim == 1 else np.moveaxis(sums, -1, 0)
        return [
            of_turn + sum(map(mul, weights, context))
            for of_turn, weights in zip(of_features, self._of_context, strict=True)
        ]


def believe(observations: TurnObservations, parameters: BeliefParameters) -> Scores:
    """Returns the probability of each task after the last turn, and last that of no task: (tasks + 1,), with the
    further axes of `observations` in front. The assistant's message before the first turn is ignored.
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
    """Returns the probabilities of `reading`, (tasks,), or uniform ones if it has none. `tasks` is their number."""
    if reading.probabilities is None:
        return np.full(tasks, 1 / tasks)
    return reading.probabilities


def _likelihood(probabilities: Scores, weight: Number, log_unknown: Number) -> Scores:
    """Returns the likelihood of a turn given each task, and last given none, up to a factor: (tasks + 1,).

    Each task's likelihood is the ratio of its probability to the mean of all, raised by `MIN_RATIO` and taken to the
    power of `weight`; that of none is the exponential of `log_unknown`.
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
