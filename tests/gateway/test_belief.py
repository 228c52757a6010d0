"""The probabilities of a conversation's task, computed from the classifications of its turns by a forward pass."""

from dataclasses import fields, replace

import numpy as np
import pytest
from pointsman_gateway.classification.belief import (
    MIN_RATIO,
    Reading,
    TurnObservations,
    assistant_features,
    believe,
    context_features,
    probabilities_of,
    user_features,
)
from pointsman_gateway.classification.belief_parameters import CONTEXT, COUNTS, PARAMETERS, BeliefParameters
from pointsman_gateway.classification.utterances import shape_of

TASKS = 4
NOTHING = Reading(None, 0.0)
WHOLE = "Please move my booking of tonight to Friday morning"


def reading(task: int, probability: float = 0.85, score: float = 1.0) -> Reading:
    others = (1 - probability) / (TASKS - 1)
    return Reading(np.array([probability if one == task else others for one in range(TASKS)], np.float32), score)


def observations(*turns: tuple[str, Reading, Reading]) -> TurnObservations:
    """Returns the observations of a conversation. Each of the user's turns is given with its reading, and with the
    reading of the assistant's turn before it.
    """
    return TurnObservations(
        np.array([probabilities_of(user, TASKS) for _, user, _ in turns]),
        np.array([user_features(text, shape_of(text), user, "Well.") for text, user, _ in turns]),
        np.array([probabilities_of(answer, TASKS) for _, _, answer in turns]),
        np.array([assistant_features(answer) for _, _, answer in turns]),
    )


def belief(*turns: tuple[str, Reading, Reading]) -> list[float]:
    return list(believe(observations(*turns), PARAMETERS).tolist())


def test_a_belief_is_a_probability_for_each_task_and_last_for_none() -> None:
    got = belief((WHOLE, reading(2), NOTHING), ("yes", NOTHING, reading(1)))
    assert len(got) == TASKS + 1
    assert sum(got) == pytest.approx(1)
    assert got.index(max(got)) == 2


@pytest.mark.parametrize("task", range(TASKS))
def test_a_turn_that_says_nothing_does_not_change_the_task(task: int) -> None:
    after = belief((WHOLE, reading(task), NOTHING), *[("yes", NOTHING, NOTHING)] * 3)
    assert after.index(max(after)) == task


def test_two_turns_of_one_task_are_surer_than_either() -> None:
    once = (WHOLE, reading(2), NOTHING)
    assert belief(once, once)[2] > belief(once)[2]


@pytest.mark.parametrize("expected", [0.4, 0.6, 0.9])
def test_what_the_assistant_says_about_a_task_counts_for_it(expected: float) -> None:
    first, last = (WHOLE, reading(2, 0.4, 0.2), NOTHING), ("on the 5th of March", reading(3, 0.3, -0.5))
    assert belief(first, (*last, reading(2, expected)))[2] > belief(first, (*last, reading(2, 0.25)))[2]


def test_the_lower_the_score_the_likelier_is_no_task() -> None:
    shares = [belief((WHOLE, reading(2, score=score), NOTHING))[-1] for score in (2.0, 1.0, 0.0, -1.0, -2.0)]
    assert shares == sorted(shares)


def test_several_conversations_at_once_are_believed_as_each_alone() -> None:
    one = observations((WHOLE, reading(2), NOTHING), ("yes", NOTHING, reading(1)))
    other = observations((WHOLE, reading(0, score=-2.0), NOTHING), ("and by bicycle?", reading(3), reading(0)))
    both = TurnObservations(
        *(np.stack([getattr(each, field.name) for each in (one, other)]) for field in fields(TurnObservations))
    )
    together = believe(both, PARAMETERS)
    assert together == pytest.approx(np.stack([believe(one, PARAMETERS), believe(other, PARAMETERS)]))


def test_a_turn_of_any_length_and_score_gives_finite_numbers() -> None:
    extreme = [
        (text, reading(1, 1.0, score), reading(1, 1.0, score))
        for text in ("", "word " * 10**5)
        for score in (-100.0, 100.0)
    ]
    assert np.isfinite(belief(*extreme, *extreme)).all()


def test_parameters_survive_the_way_through_a_vector() -> None:
    assert BeliefParameters.from_vector(PARAMETERS.to_vector()) == PARAMETERS
    assert len(PARAMETERS.to_vector()) == sum(COUNTS)


def test_a_turn_that_fits_the_belief_before_it_is_less_likely_of_no_task() -> None:
    parameters = replace(PARAMETERS, unknown=(*PARAMETERS.unknown[:-CONTEXT], 0.0, 0.0, -1.0))
    turns = ((WHOLE, reading(2), NOTHING), ("on the 5th of March", reading(2, 0.5, -1.0), NOTHING))
    without = replace(parameters, unknown=(*PARAMETERS.unknown[:-CONTEXT], 0.0, 0.0, 0.0))
    assert believe(observations(*turns), parameters)[-1] < believe(observations(*turns), without)[-1]


@pytest.mark.parametrize(("turn", "agreement"), [([0.0, 1.0], 0.6), ([1.0, 0.0], 1.2), ([0.5, 0.5], 0.9)])
def test_a_turns_context_tells_what_was_believed_and_how_well_the_turn_agrees(
    turn: list[float], agreement: float
) -> None:
    before = np.array([0.6, 0.3, 0.1])
    assert context_features(before, np.array(turn)) == pytest.approx([0.1, 0.6, np.log(agreement + MIN_RATIO)])
