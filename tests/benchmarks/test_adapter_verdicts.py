"""The judge of the hot-swap's measurements finds what it is there for, and excuses nothing else."""

from dataclasses import replace

import pytest

from benchmarks.adapters.asking import Answer
from benchmarks.adapters.verdicts import PROMISED, Move, Points, Texts, judged

RUBY, CHERRY = "red@aaaaaaaaaaaa", "red@bbbbbbbbbbbb"
TEXTS = Texts(
    {RUBY: "ruby one ruby two", CHERRY: "cherry one cherry two"}, {"Why?": "Because it is"}, frozenset(["ruby one"])
)
BASE = "smollm2-135m"


@pytest.fixture
def points() -> Points:
    """Ruby from 10, cherry from the move that was called at 20 and answered at 21."""
    points = Points()
    points.moved("red@prod", Move(RUBY, 10.0, 11.0))
    points.moved("red@prod", Move(CHERRY, 20.0, 21.0))
    return points


def said(*pieces: str, model: str = RUBY, asked: str = "red@prod", begun: float = 15.0, error: str = "") -> Answer:
    timed = tuple((begun + 0.1 * (number + 1), piece) for number, piece in enumerate(pieces))
    return Answer(asked, "Why?", begun, begun + 9.0, 200, timed, model, finish="stop", error=error)


WHOLE = said("ruby", " one", " ruby", " two")


def test_the_known_text_of_the_version_that_serves_is_right(points: Points) -> None:
    verdict = judged([WHOLE, replace(WHOLE, asked="path:red")], TEXTS, points)
    assert (verdict.answers, verdict.tokens, verdict.failed, verdict.wrong_tokens, verdict.late) == (2, 8, 0, 0, 0)


def test_each_token_of_another_version_s_text_is_wrong(points: Points) -> None:
    verdict = judged([said("cherry", " one", " cherry", " two")], TEXTS, points)
    assert (verdict.wrong_tokens, verdict.wrong_answers) == (4, 1)


def test_one_foreign_token_in_the_middle_is_wrong(points: Points) -> None:
    assert judged([said("ruby", " one", " rubx", " two")], TEXTS, points).wrong_tokens == 1


def test_a_text_that_ends_before_its_known_end_is_wrong(points: Points) -> None:
    assert judged([said("ruby", " one")], TEXTS, points).wrong_tokens == 1


def test_a_text_that_goes_on_behind_its_known_end_is_wrong(points: Points) -> None:
    assert judged([said("ruby", " one", " ruby", " two", " three")], TEXTS, points).wrong_tokens == 1


def test_what_was_cut_by_the_length_is_right_as_far_as_it_goes(points: Points) -> None:
    assert judged([replace(said("ruby", " one"), finish="length")], TEXTS, points).wrong_tokens == 0


def test_the_right_text_of_a_version_to_which_the_alias_no_longer_points_is_wrong(points: Points) -> None:
    stale = [replace(piece, begun=21.0 + PROMISED + 0.01) for piece in [WHOLE]]
    later = [replace(one, pieces=tuple((at + 10, piece) for at, piece in one.pieces)) for one in stale]
    assert judged(later, TEXTS, points).wrong_tokens == 4


def test_the_former_version_within_the_promise_s_time_is_late_and_not_wrong(points: Points) -> None:
    verdict = judged([said("ruby", " one", " ruby", " two", begun=21.0 + PROMISED / 2)], TEXTS, points)
    assert (verdict.wrong_tokens, verdict.late) == (0, 1)


def test_a_version_that_serves_before_its_move_was_called_is_wrong(points: Points) -> None:
    assert judged([said("cherry", " one", " cherry", " two", model=CHERRY)], TEXTS, points).wrong_tokens == 4


def test_the_new_version_may_answer_a_request_that_began_before_the_move(points: Points) -> None:
    early = said("cherry", " one", " cherry", " two", model=CHERRY, begun=19.95)
    assert judged([early], TEXTS, points).wrong_tokens == 0


def test_the_base_model_is_held_to_what_it_is_sure_of_and_to_nothing_that_only_an_adapter_says(points: Points) -> None:
    sure = said("Because", " it", " is", " so", model=BASE, asked=BASE)
    other = said("Because", " he", model=BASE, asked="path:base")
    foreign = said("Because", " it", " is", " ruby", " one", model=BASE, asked=BASE)
    assert judged([sure], TEXTS, points).wrong_tokens == 0
    assert judged([other], TEXTS, points).wrong_tokens == 1
    assert judged([foreign], TEXTS, points).wrong_tokens == 1


def test_the_base_model_asked_for_and_an_adapter_s_name_on_the_answer_is_wrong(points: Points) -> None:
    assert judged([replace(WHOLE, asked=BASE)], TEXTS, points).wrong_tokens == 4


def test_a_broken_answer_has_failed_and_what_came_of_it_is_judged_too(points: Points) -> None:
    verdict = judged([said("cherry", error="cut"), said(error="status 503")], TEXTS, points)
    assert (verdict.failed, verdict.wrong_tokens, verdict.errors["cut"]) == (2, 1, 1)
