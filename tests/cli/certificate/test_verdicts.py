"""A certificate gives a verdict if the rows decide it; otherwise it says how many rows would."""

from dataclasses import replace

import pytest
from pointsman_cli.advise.costs import CostTerms
from pointsman_cli.advise.recommendation import Requirements
from pointsman_cli.certificate.issue import Validity, make_statement
from pointsman_cli.certificate.statement import TaskVerdict
from pointsman_cli.certificate.task_verdicts import VerdictTerms
from pointsman_cli.certificate.verdict import Candidate, Precision, decide
from pointsman_cli.errors import UsageError
from pointsman_scoring.paired_limits import Standing

from tests.cli.certificate.reports import ISSUED, VERSION, adapter_of, catalog_of, path_of, report_of, statement_of

PRECISION = Precision(margin=0.1, alpha=0.05, power=0.8)
RIGHT, WRONG = [1.0] * 100, [0.0] * 100
HALF = [1.0, 0.0] * 50
UNSURE, RATHER = [0.0] * 12 + [1.0] * 88, [1.0] * 94 + [0.0] * 6
"""The scores of two paths on the same 100 rows: UNSURE is wrong on twelve of them, RATHER on six others."""


def verdict_of(*paths: object, **given: object) -> TaskVerdict:
    (verdict,) = statement_of(report_of(*paths), **given).verdicts  # type: ignore[arg-type]
    return verdict


def test_the_cheapest_of_two_equal_paths_is_named() -> None:
    found = decide([Candidate("cheap", RIGHT), Candidate("dear", RIGHT)], PRECISION)
    assert (found.path, found.is_decided, found.rows_needed) == ("cheap", True, 0)
    assert [each.standing for each in found.standings] == [Standing.CLOSE, Standing.CLOSE]


def test_a_dear_path_is_named_if_the_cheap_one_is_surely_worse() -> None:
    found = decide([Candidate("cheap", HALF), Candidate("dear", RIGHT)], PRECISION)
    assert (found.path, found.is_decided) == ("dear", True)
    assert found.standings[0].standing is Standing.WORSE
    assert found.standings[0].behind
    assert 0 < found.standings[0].behind.low < 0.5 < found.standings[0].behind.high


def test_a_preferred_path_of_which_nothing_is_sure_forbids_a_verdict() -> None:
    found = decide([Candidate("cheap", UNSURE), Candidate("dear", RATHER)], PRECISION)
    assert (found.path, found.is_decided) == ("", False)
    assert found.rows_needed > 100
    assert [each.rows_needed > 0 for each in found.standings] == [True, False]


def test_paths_that_are_dearer_than_the_named_one_need_no_rows() -> None:
    found = decide([Candidate("cheap", RATHER), Candidate("dear", UNSURE)], PRECISION)
    assert (found.path, found.rows_needed) == ("cheap", 0)
    assert found.standings[1].standing is Standing.OPEN


def test_a_required_score_is_compared_with_each_path_alone() -> None:
    needs = replace(PRECISION, floor=0.8)
    found = decide([Candidate("cheap", HALF), Candidate("dear", RIGHT)], needs)
    assert (found.path, found.is_decided) == ("dear", True)
    none = decide([Candidate("cheap", HALF), Candidate("dear", WRONG)], needs)
    assert (none.path, none.is_decided) == ("", True)
    unsure = decide([Candidate("cheap", [0.0] * 20 + [1.0] * 80)], needs)
    assert (unsure.is_decided, unsure.rows_needed > 100) == (False, True)


def test_rows_without_a_score_of_both_paths_do_not_count_and_more_rows_are_needed() -> None:
    half_scored = [score for one in RATHER for score in (one, None)]
    whole = decide([Candidate("cheap", UNSURE), Candidate("dear", RATHER)], PRECISION)
    doubled = [score for one in UNSURE for score in (one, one)]
    half = decide([Candidate("cheap", doubled), Candidate("dear", half_scored)], PRECISION)
    assert half.rows_needed == 2 * whole.rows_needed


def test_the_verdict_names_what_to_do_and_agrees_with_the_recommendation() -> None:
    found = verdict_of(path_of("few_shot", HALF, 5.0), adapter_of("adapter", RIGHT, 2.0))
    assert (found.verdict, found.path, found.recommended) == ("train", "adapter", "adapter")
    assert found.break_evens[0].requests == pytest.approx(0.5 / 0.003)
    assert found.margin == pytest.approx(0.03)


def test_too_few_rows_give_no_verdict() -> None:
    found = verdict_of(path_of("few_shot", HALF[:4], 5.0), adapter_of("adapter", RIGHT[:4], 2.0))
    assert (found.verdict, found.path, found.is_decided) == ("", "", False)
    assert found.rows_needed > 4
    assert found.recommended  # `advise` alone recommends one


def test_a_smaller_stated_difference_needs_more_rows() -> None:
    paths = path_of("few_shot", UNSURE, 1.0), path_of("long", RATHER, 5.0)
    needed = [verdict_of(*paths, difference=difference).rows_needed for difference in (0.1, 0.05, 0.03)]
    assert 100 < needed[0] <= needed[1] <= needed[2]
    assert needed[0] < needed[2]


def test_a_path_that_misses_a_limit_of_form_or_latency_is_left_out_with_the_reason() -> None:
    loose = path_of("loose", RIGHT, 1.0, well_formed=0.6)
    slow = path_of("slow", RIGHT, 2.0, score=None)
    found = verdict_of(loose, slow, path_of("good", RIGHT, 3.0), needs=Requirements(form=0.9))
    assert (found.path, set(found.left_out)) == ("good", {"loose", "slow"})
    assert found.left_out["loose"] == "is well-formed in 60.0%: 90.0% are needed"
    none = verdict_of(loose, needs=Requirements(form=0.9))
    assert (none.verdict, none.path) == ("none of them is good enough yet", "")


def test_without_a_volume_an_equally_good_path_without_an_adapter_is_preferred() -> None:
    paths = path_of("few_shot", RIGHT * 3, 5.0), adapter_of("adapter", RIGHT * 3, 2.0)
    assert verdict_of(*paths).path == "few_shot"
    assert verdict_of(*paths, monthly=1e6).path == "adapter"


@pytest.mark.parametrize(
    ("terms", "needs", "says"),
    [
        (CostTerms(wrong_answer=0.1), Requirements(), "leave out --wrong-answer-usd"),
        (CostTerms(), Requirements(floor=1.0), "give a --min-score below 1"),
    ],
)
def test_what_no_rows_can_show_is_rejected(terms: CostTerms, needs: Requirements, says: str) -> None:
    report = report_of(path_of("few_shot", RIGHT, 5.0))
    with pytest.raises(UsageError, match=says):
        make_statement(
            report,
            catalog_of(report),
            VerdictTerms(needs, terms, None, 0.8),
            Validity(90, 0.2),
            adapters=(),
            issued=ISSUED,
        )


def test_a_report_without_the_scores_of_rows_is_rejected() -> None:
    with pytest.raises(UsageError, match="lacks the scores of each row of 'triage'; evaluate again"):
        statement_of(report_of(path_of("few_shot", RIGHT, 5.0, fingerprint="")))


def test_a_configuration_that_has_changed_since_the_evaluation_is_rejected() -> None:
    report = report_of(path_of("few_shot", RIGHT, 5.0))
    with pytest.raises(UsageError, match="the configuration was old in the evaluation, and is abc now"):
        statement_of(replace(report, revision="old"))


def test_an_adapter_that_answered_in_two_versions_is_rejected() -> None:
    mixed = replace(adapter_of("adapter", RIGHT, 2.0), model=f"triage@0123456789ab, {VERSION}")
    with pytest.raises(UsageError, match="end the canary, and evaluate again"):
        statement_of(report_of(mixed))
    moved = replace(adapter_of("adapter", RIGHT, 2.0), model="triage@0123456789ab")
    with pytest.raises(UsageError, match=f"triage@0123456789ab answered in the evaluation, and {VERSION} would now"):
        statement_of(report_of(moved))
