"""Tests of `check_answers`, which decides in the hot-swap benchmark whether an answer is complete, and of an adapter
version that was allowed. It must report every kind of wrong answer, and no correct one.
"""

from dataclasses import replace

import pytest

from benchmarks.adapters.streaming_client import Answer
from benchmarks.adapters.verdicts import ALIAS_DELAY_SECONDS, AliasHistory, AliasMove, ExpectedTexts, check_answers

RUBY, CHERRY = "red@aaaaaaaaaaaa", "red@bbbbbbbbbbbb"
TEXTS = ExpectedTexts(
    {RUBY: "ruby one ruby two", CHERRY: "cherry one cherry two"}, {"Why?": "Because it is"}, frozenset(["ruby one"])
)
BASE = "smollm2-135m"


@pytest.fixture
def history() -> AliasHistory:
    """Returns the history of an alias "red": it points to RUBY from time 10 on, and to CHERRY after a change that was
    called at 20 and returned at 21.
    """
    history = AliasHistory()
    history.record("red@prod", AliasMove(RUBY, 10.0, 11.0))
    history.record("red@prod", AliasMove(CHERRY, 20.0, 21.0))
    return history


def streamed_answer(
    *pieces: str, model: str = RUBY, requested: str = "red@prod", started: float = 15.0, error: str = ""
) -> Answer:
    timed = tuple((started + 0.1 * (number + 1), piece) for number, piece in enumerate(pieces))
    return Answer(requested, "Why?", started, started + 9.0, 200, timed, model, finish="stop", error=error)


WHOLE = streamed_answer("ruby", " one", " ruby", " two")


def test_the_known_text_of_the_serving_version_is_correct(history: AliasHistory) -> None:
    verdict = check_answers([WHOLE, replace(WHOLE, requested="path:red")], TEXTS, history)
    assert (verdict.answers, verdict.tokens, verdict.failed, verdict.wrong_tokens, verdict.late) == (2, 8, 0, 0, 0)


def test_each_token_of_another_version_s_text_is_wrong(history: AliasHistory) -> None:
    verdict = check_answers([streamed_answer("cherry", " one", " cherry", " two")], TEXTS, history)
    assert (verdict.wrong_tokens, verdict.wrong_answers) == (4, 1)


def test_one_foreign_token_in_the_middle_is_wrong(history: AliasHistory) -> None:
    assert check_answers([streamed_answer("ruby", " one", " rubx", " two")], TEXTS, history).wrong_tokens == 1


def test_a_text_that_ends_before_its_known_end_is_wrong(history: AliasHistory) -> None:
    assert check_answers([streamed_answer("ruby", " one")], TEXTS, history).wrong_tokens == 1


def test_a_text_that_continues_after_its_known_end_is_wrong(history: AliasHistory) -> None:
    assert check_answers([streamed_answer("ruby", " one", " ruby", " two", " three")], TEXTS, history).wrong_tokens == 1


def test_a_text_cut_by_the_token_limit_is_correct_so_far(history: AliasHistory) -> None:
    assert check_answers([replace(streamed_answer("ruby", " one"), finish="length")], TEXTS, history).wrong_tokens == 0


def test_the_text_of_a_version_after_the_allowed_delay_is_wrong(history: AliasHistory) -> None:
    stale = [replace(piece, started=21.0 + ALIAS_DELAY_SECONDS + 0.01) for piece in [WHOLE]]
    later = [replace(one, chunks=tuple((at + 10, piece) for at, piece in one.chunks)) for one in stale]
    assert check_answers(later, TEXTS, history).wrong_tokens == 4


def test_the_previous_version_within_the_allowed_delay_is_late_and_not_wrong(history: AliasHistory) -> None:
    verdict = check_answers(
        [streamed_answer("ruby", " one", " ruby", " two", started=21.0 + ALIAS_DELAY_SECONDS / 2)], TEXTS, history
    )
    assert (verdict.wrong_tokens, verdict.late) == (0, 1)


def test_a_version_that_serves_before_its_promotion_is_wrong(history: AliasHistory) -> None:
    assert (
        check_answers([streamed_answer("cherry", " one", " cherry", " two", model=CHERRY)], TEXTS, history).wrong_tokens
        == 4
    )


def test_the_new_version_may_answer_a_request_sent_before_the_promotion(history: AliasHistory) -> None:
    early = streamed_answer("cherry", " one", " cherry", " two", model=CHERRY, started=19.95)
    assert check_answers([early], TEXTS, history).wrong_tokens == 0


def test_the_base_model_must_generate_its_known_text_and_no_adapters_phrase(
    history: AliasHistory,
) -> None:
    sure = streamed_answer("Because", " it", " is", " so", model=BASE, requested=BASE)
    other = streamed_answer("Because", " he", model=BASE, requested="path:base")
    foreign = streamed_answer("Because", " it", " is", " ruby", " one", model=BASE, requested=BASE)
    assert check_answers([sure], TEXTS, history).wrong_tokens == 0
    assert check_answers([other], TEXTS, history).wrong_tokens == 1
    assert check_answers([foreign], TEXTS, history).wrong_tokens == 1


def test_an_adapters_answer_to_a_request_for_the_base_model_is_wrong(history: AliasHistory) -> None:
    assert check_answers([replace(WHOLE, requested=BASE)], TEXTS, history).wrong_tokens == 4


def test_a_failed_answer_is_counted_and_its_tokens_are_checked(history: AliasHistory) -> None:
    verdict = check_answers(
        [streamed_answer("cherry", error="cut"), streamed_answer(error="status 503")], TEXTS, history
    )
    assert (verdict.failed, verdict.wrong_tokens, verdict.errors["cut"]) == (2, 1, 1)
