"""How smoke test results are interpreted, and when the engine's answers count as different from PEFT's."""

from dataclasses import dataclass
from typing import Any

import pytest
from pointsman_lora_server.smoke.reference import Agreement, Reference, ReferenceRow, check_trial, compare
from pointsman_servicekit.errors import InvalidArgument

ROW: dict[str, Any] = {
    "prompt_ids": [1],
    "token_ids": [5, 6, 2],
    "gaps": [9.0, 0.1, 9.0],
    "text": "five six",
    "finite": True,
    "stopped": True,
}
GOOD: dict[str, Any] = {"rows": [ROW, ROW], "difference": 2.0, "stops": True, "exact": True}


@dataclass(frozen=True)
class Answered:
    token_ids: tuple[int, ...]
    text: str = "something"


def test_a_passed_smoke_test_becomes_the_reference() -> None:
    reference = check_trial("triage@0", GOOD, with_samples=True)

    assert reference.rows[0] == ReferenceRow((1,), (5, 6, 2), (9.0, 0.1, 9.0), "five six")
    assert reference.notes == ()


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("not_finite", {"rows": [ROW, ROW | {"finite": False}]}),
        ("no_effect", {"difference": 0.0}),
        ("no_effect", {"difference": 0.019}),
        ("does_not_stop", {"stops": False}),
    ],
)
def test_a_failed_smoke_test_is_rejected(code: str, found: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_trial("triage@0", GOOD | found, with_samples=True)

    assert caught.value.code == code


def test_without_samples_an_endless_answer_is_only_a_note() -> None:
    assert check_trial("triage@0", GOOD | {"stops": False}, with_samples=False).notes


def _reference(*gaps: tuple[float, ...], exact: bool = True) -> Reference:
    return Reference(tuple(ReferenceRow((1,), (5, 6, 2), each, "five six") for each in gaps), exact)


CLEAR = (9.0, 9.0, 9.0)


def test_the_same_tokens_agree() -> None:
    assert compare(_reference(CLEAR), [Answered((5, 6, 2))]) == Agreement(rows=1, same=1, near_ties=0, tokens=3)


@pytest.mark.parametrize("tokens", [(5, 6), (5, 6, 2, 9, 9)])
def test_the_end_of_turn_token_is_optional(tokens: tuple[int, ...]) -> None:
    assert compare(_reference(CLEAR), [Answered(tokens)]).same == 1


def test_after_a_near_tie_differences_do_not_count() -> None:
    found = compare(_reference((9.0, 0.1, 9.0)), [Answered((5, 7, 8))])

    assert found == Agreement(rows=1, same=0, near_ties=1, tokens=1)


def test_a_near_tie_with_equal_tokens_excuses_no_later_difference() -> None:
    with pytest.raises(InvalidArgument):
        compare(_reference((0.1, 9.0, 9.0)), [Answered((5, 7, 8))])


@pytest.mark.parametrize("tokens", [(5, 7, 2), (7,), (5,), ()])
def test_a_clear_difference_is_rejected_with_both_texts(tokens: tuple[int, ...]) -> None:
    with pytest.raises(InvalidArgument, match="five six") as caught:
        compare(_reference(CLEAR), [Answered(tokens, "the base's words")])

    assert caught.value.code == "differs_from_peft"
    assert "the base's words" in caught.value.message


def test_one_of_four_rows_may_differ() -> None:
    right, wrong = Answered((5, 6, 2)), Answered((7, 7, 7))

    assert compare(_reference(*[CLEAR] * 4), [right, right, wrong, right]).same == 3
    with pytest.raises(InvalidArgument):
        compare(_reference(*[CLEAR] * 4), [right, wrong, wrong, right])


def test_a_rounded_reference_has_a_larger_tolerance() -> None:
    gaps = (9.0, 1.5, 9.0)

    assert compare(_reference(gaps, exact=False), [Answered((5, 7, 8))]).near_ties == 1
    with pytest.raises(InvalidArgument):
        compare(_reference(gaps), [Answered((5, 7, 8))])
