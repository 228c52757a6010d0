"""The learning rate is a function of the step number, independent of time."""

from dataclasses import replace

import pytest
from pointsman_lora_server.training.learning_rate import StepCounter, learning_rate_scale


def rates(course: StepCounter) -> list[float]:
    found = []
    while course.left:
        found.append(course.next_scale())
        course.advance()
    return found


def test_it_rises_for_five_percent_of_the_steps_and_then_falls_to_zero() -> None:
    found = rates(StepCounter(100, 100))
    assert found[4] == max(found[:5]) == pytest.approx(0.9)
    assert found[5] == pytest.approx(1, abs=0.01)
    assert found[5:] == sorted(found[5:], reverse=True)
    assert found[-1] < 0.01
    assert (learning_rate_scale(0), learning_rate_scale(1)) == (0, pytest.approx(0))


def test_a_resumed_run_continues_with_the_same_rates() -> None:
    whole = rates(StepCounter(37, 37))
    course = StepCounter(37, 37)
    first = [course.next_scale()]
    for _ in range(16):
        course.advance()
        first.append(course.next_scale())
    assert first[:17] == whole[:17]
    assert rates(replace(course)) == whole[16:]


def test_a_shortened_run_still_decays_to_zero() -> None:
    course = StepCounter(100, 100)
    for _ in range(50):
        course.advance()
    course.replan(10)
    assert (course.steps, course.left) == (60, 10)
    found = rates(course)
    assert len(found) == 10
    assert found[-1] < 0.02


def test_a_run_that_was_shortened_is_extended_up_to_all_epochs() -> None:
    course = StepCounter(10, 40)
    for _ in range(5):
        course.advance()
    course.replan(50)
    assert (course.steps, course.left) == (40, 35)
    found = rates(course)
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.01
