"""Advice from an evaluation and the cost of training: when an adapter pays off, and what to do."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from pointsman_cli.advise.costs import CostTerms, break_even
from pointsman_cli.advise.recommendation import Requirements, TaskAdvice, advise
from pointsman_cli.errors import UsageError
from pointsman_cli.eval.report import EvaluatedPath, LatencyQuantiles, Pair, Report, TaskReport, write_report
from pointsman_scoring.intervals import Interval

Cli = Callable[..., Any]

ADAPTER = "triage@prod"
TRAINED = CostTerms(training={ADAPTER: 0.6, "triage": 0.6})


def path(name: str, kind: str, score: float, usd_per_1000: Mapping[str, float], **more: Any) -> EvaluatedPath:
    facts: dict[str, Any] = {
        "adapter": ADAPTER if kind in ("lora", "hybrid") else "",
        "model": "tiny",
        "answers": 100,
        "failures": {},
        "unscored": 0,
        "score": Interval(score, score - 0.05, score + 0.05),
        "well_formed": 1.0,
        "first_token": LatencyQuantiles(0.1, 0.2),
        "total": LatencyQuantiles(1.0, 2.0),
        "prompt_tokens": 100.0,
        "cached_tokens": 0.0,
        "completion_tokens": 10.0,
        "prompt_tokens_p95": 120.0,
        "context_window": 4096,
        "judge_usd": 0.0,
        "on_front": False,
    }
    return EvaluatedPath(path=name, kind=kind, usd_per_1000=usd_per_1000, **(facts | more))


FEW_SHOT = path("few_shot", "prompt", 0.5, {"prompt": 4.0, "completion": 1.0})
RAG = path("rag", "rag", 0.6, {"prompt": 3.0, "completion": 1.0, "retrieval": 0.5})
LORA = path("adapter", "lora", 0.8, {"prompt": 1.0, "completion": 1.0})
HYBRID = path("hybrid", "hybrid", 0.9, {"prompt": 4.5, "completion": 1.0})


def report_of(*paths: EvaluatedPath, chance: tuple[tuple[str, str], ...] = ()) -> Report:
    """Returns a report in which all differences between paths are significant, except for the pairs in `chance`."""
    pairs = [
        Pair(one.path, other.path, 100, Interval(0.1, 0, 0.2), p_value, p_value, "mcnemar")
        for place, one in enumerate(paths)
        for other in paths[place + 1 :]
        for p_value in [0.4 if {one.path, other.path} in [set(two) for two in chance] else 0.001]
    ]
    task = TaskReport("triage", "exact", 100, paths, tuple(pairs), (), (), 0)
    return Report(1, "triage.jsonl", "0" * 64, "abc", 8, 0.95, (task,))


def advice(
    *paths: EvaluatedPath, needs: Requirements | None = None, terms: CostTerms = TRAINED, **more: Any
) -> TaskAdvice:
    (found,) = advise(report_of(*paths, **more), needs or Requirements(), terms)
    return found


def test_the_break_even_follows_from_the_saving_per_request() -> None:
    found = break_even(LORA, FEW_SHOT, TRAINED)
    assert found.saving_per_1000 == pytest.approx(3)
    assert found.requests == pytest.approx(0.6 / 0.003)
    # 5/0.5 and 2/0.8 dollars per 1,000 correct answers
    assert found.right_answers == pytest.approx(0.6 / (0.010 - 0.0025))
    assert found.requests_a_month == pytest.approx(0.6 / 12 / 0.003)


def test_a_training_cost_already_in_the_receipts_is_not_counted_twice() -> None:
    paying_back = path("adapter", "lora", 0.8, {**LORA.usd_per_1000, "training": 7.0})
    assert break_even(paying_back, FEW_SHOT, TRAINED) == break_even(LORA, FEW_SHOT, TRAINED)


def test_a_more_expensive_path_can_pay_off_only_through_the_cost_of_wrong_answers() -> None:
    assert break_even(HYBRID, FEW_SHOT, TRAINED).requests is None
    dear = CostTerms(training=TRAINED.training, wrong_answer=0.01)
    # saving per request: 0.01 x (0.9 - 0.5), minus the additional cost of 0.0005
    assert break_even(HYBRID, FEW_SHOT, dear).requests == pytest.approx(0.6 / (0.004 - 0.0005))


def test_changing_knowledge_gives_an_adapter_a_monthly_retraining_cost() -> None:
    terms = CostTerms(training=TRAINED.training, trainings_a_month=4, adapter_month=0.2)
    assert break_even(LORA, FEW_SHOT, terms).requests_a_month == pytest.approx((4 * 0.6 + 0.2 + 0.05) / 0.003)


def test_a_path_without_correct_answers_is_beaten_by_the_first_correct_answer() -> None:
    hopeless = path("zero_shot", "prompt", 0.0, {"prompt": 0.1})
    found = break_even(LORA, hopeless, TRAINED)
    assert (found.requests, found.right_answers) == (None, 0)


def test_the_sensitivity_analysis_changes_one_price_at_a_time() -> None:
    found = advice(FEW_SHOT, path("adapter", "lora", 0.8, {**LORA.usd_per_1000, "training": 7.0}))
    assert [each.price for each in found.sensitivities] == ["prompt", "completion", "training"]
    assert found.compared_pair == ("adapter", "few_shot")
    moved = {each.price: each.requests for each in found.sensitivities}
    assert moved == {
        "prompt": pytest.approx((0.6 / 0.0015, 0.6 / 0.003, 0.6 / 0.006)),
        "completion": pytest.approx((0.6 / 0.003,) * 3),
        "training": pytest.approx((0.3 / 0.003, 0.6 / 0.003, 1.2 / 0.003)),
    }


@pytest.mark.parametrize(
    ("paths", "verdict", "chosen"),
    [
        ([FEW_SHOT, path("adapter", "lora", 0.4, {"prompt": 1.0})], "stay with prompting", "few_shot"),
        ([FEW_SHOT, RAG], "add retrieval", "rag"),
        ([FEW_SHOT, RAG, LORA], "train", "adapter"),
        ([FEW_SHOT, RAG, LORA, HYBRID], "both", "hybrid"),
    ],
)
def test_the_significantly_best_path_is_recommended(paths: list[EvaluatedPath], verdict: str, chosen: str) -> None:
    recommended = advice(*paths).recommendation
    assert recommended.verdict.startswith(verdict)
    assert recommended.path == chosen
    assert any(reason.startswith("accuracy: " + chosen) for reason in recommended.reasons)


def test_among_equally_good_paths_the_untrained_one_is_recommended_without_a_volume() -> None:
    chance = (("few_shot", "adapter"),)
    few_shot = path("few_shot", "prompt", 0.78, FEW_SHOT.usd_per_1000)
    without = advice(few_shot, LORA, chance=chance).recommendation
    assert without.path == "few_shot"
    assert (
        "an adapter would be as good: adapter pays from 200 requests on; give --requests-per-month to compare costs"
        in without.reasons
    )
    # training costs 0.05 dollars a month, and each request saves 0.003: it pays off from 17 requests on
    for monthly, chosen in [(16, "few_shot"), (17, "adapter")]:
        terms = CostTerms(training=TRAINED.training, monthly=monthly)
        assert advice(few_shot, LORA, terms=terms, chance=chance).recommendation.path == chosen


def test_a_small_set_does_not_make_a_mostly_wrong_cheap_path_acceptable() -> None:
    """The scores were measured on sums of fares: 5 of 40 answers correct for one path, none for the other."""
    right, cheap = path("few_shot", "prompt", 0.125, {"prompt": 4.0}), path("adapter", "lora", 0.0, {"prompt": 1.0})
    terms = CostTerms(training=TRAINED.training, monthly=1e6)
    recommended = advice(right, cheap, terms=terms, chance=(("few_shot", "adapter"),)).recommendation
    assert recommended.path == "few_shot"
    assert "that is low: --min-score sets the score that you need" in recommended.reasons


def test_of_low_scores_half_the_best_one_is_not_equally_good() -> None:
    """The scores were measured on sums of fares: 11 of 300 answers correct for one path, 5 for the other."""
    right, cheap = path("few_shot", "prompt", 0.037, {"prompt": 4.0}), path("adapter", "lora", 0.017, {"prompt": 1.0})
    near = path("nearest", "prompt", 0.034, {"prompt": 3.0})
    terms = CostTerms(training=TRAINED.training, monthly=1e6)
    chance = (("few_shot", "adapter"), ("few_shot", "nearest"))
    assert advice(right, cheap, near, terms=terms, chance=chance).recommendation.path == "nearest"


def test_with_a_minimum_score_the_cheapest_path_that_reaches_it_is_recommended() -> None:
    terms = CostTerms(training=TRAINED.training, monthly=1e6)
    assert (
        advice(FEW_SHOT, RAG, LORA, HYBRID, needs=Requirements(floor=0.74), terms=terms).recommendation.path
        == "adapter"
    )
    none = advice(FEW_SHOT, LORA, needs=Requirements(floor=0.95)).recommendation
    assert (none.verdict, none.path) == ("none of them is good enough yet", "")
    assert none.reasons[0] == "few_shot scores 0.500, surely no less than 0.450: the floor is 0.95"


def test_a_path_beyond_the_limits_of_latency_or_validity_is_not_recommended() -> None:
    slow = path("adapter", "lora", 0.8, {"prompt": 1.0}, total=LatencyQuantiles(2, 5))
    loose = path("rag", "rag", 0.7, {"prompt": 1.0}, well_formed=0.6)
    assert advice(FEW_SHOT, slow, loose, needs=Requirements(form=0.9, p95_seconds=3)).recommendation.path == "few_shot"


def test_the_reasons_name_form_latency_knowledge_and_a_prompt_near_the_window() -> None:
    long = path("few_shot", "prompt", 0.5, {"prompt": 4.0}, prompt_tokens_p95=3000.0, well_formed=0.7)
    reasons = "\n".join(advice(long, RAG, LORA).recommendation.reasons)
    for part in (
        "form: 100% of adapter's answers are well-formed; few_shot 70%, rag 100%",
        "latency: adapter takes 2.00 s at p95",
        "cost: adapter costs $2.0000 per 1,000 answers, as receipts state it\n",
        "knowledge: an adapter knows what it was trained on",
        "prompt length: few_shot fills 73% of the 4,096 tokens of the window at p95",
    ):
        assert part in reasons


def test_the_cost_is_that_of_the_receipts_and_tells_the_share_of_the_training() -> None:
    lora = path("adapter", "lora", 0.8, {"prompt": 1.0, "training": 1.6})
    reasons = advice(FEW_SHOT, lora).recommendation.reasons
    assert (
        "cost: adapter costs $2.6000 per 1,000 answers, as receipts state it: $1.6000 of it for its training, which "
        "counts as a whole in all that follows"
    ) in reasons


def test_the_command_reads_a_report_and_a_training(cli: Cli, tmp_path: Path) -> None:
    write_report(report_of(FEW_SHOT, LORA), tmp_path / "report.json")
    (tmp_path / "training.json").write_text(json.dumps({"name": "triage", "seconds": 1800}))
    arguments = [
        "advise",
        tmp_path / "report.json",
        "--training",
        tmp_path / "training.json",
        "--trainer-usd-per-hour",
        "1.2",
    ]

    shown = cli(*arguments)
    assert shown.code == 0, shown.err
    assert "triage: train (adapter)" in shown.out
    printed = json.loads(cli(*arguments, "--json").out)
    assert printed[0]["recommendation"]["path"] == "adapter"
    assert printed[0]["break_evens"][0]["requests"] == pytest.approx(200)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "the cost of training 'triage' is unknown; give --training FILE with --trainer-usd-per-hour USD, or"),
        (["--training", "{}/training.json"], "with --trainer-usd-per-hour"),
        (["--training", "{}/report.json", "--trainer-usd-per-hour", "1"], "is not a training record"),
        (["--training", "{}/none.json", "--trainer-usd-per-hour", "1"], "No such file"),
        (["--training-cost", "triage"], "--training-cost is 'triage'; it must be NAME=USD, such as triage=0.25"),
        (["--training-cost", "triage=-1"], "is 'triage=-1'; it must"),
    ],
)
def test_an_unknown_training_cost_is_an_error_and_not_zero(
    cli: Cli, tmp_path: Path, arguments: list[str], says: str
) -> None:
    write_report(report_of(FEW_SHOT, LORA), tmp_path / "report.json")
    (tmp_path / "training.json").write_text(json.dumps({"name": "triage", "seconds": 1800}))
    outcome = cli("advise", tmp_path / "report.json", *(argument.format(tmp_path) for argument in arguments))
    assert outcome.code == 2
    assert says in outcome.err


def test_an_adapter_that_was_still_improving_is_to_be_trained_longer(cli: Cli, tmp_path: Path) -> None:
    write_report(report_of(FEW_SHOT, LORA), tmp_path / "report.json")
    record = {"name": "triage", "seconds": 1800, "ended_by": "time", "epochs_done": 1.2, "recipe": {"epochs": 3}}
    arguments = ["--training", tmp_path / "training.json", "--trainer-usd-per-hour", 1]
    for is_best in (True, False):
        file = tmp_path / "training.json"
        file.write_text(json.dumps({**record, "evaluations": [{"step": 9, "best": is_best}]}))
        shown = cli("advise", tmp_path / "report.json", *arguments)
        warning = (
            "training: adapter's adapter was still improving when its time ended (1.2 of 3 epochs): train it longer"
        )
        assert (warning in shown.out) == is_best, shown.err


def test_rows_that_selected_the_weights_of_an_adapter_are_no_evidence_for_it(cli: Cli, tmp_path: Path) -> None:
    report = report_of(FEW_SHOT, LORA)
    write_report(report, tmp_path / "report.json")
    record = {"name": "triage", "seconds": 1800, "best_step": 9, "data": {"heldout_sha256": report.sha256}}
    (tmp_path / "training.json").write_text(json.dumps(record))
    options = ("--training", tmp_path / "training.json", "--trainer-usd-per-hour", 1)
    outcome = cli("advise", tmp_path / "report.json", *options)
    assert outcome.code == 2
    assert "the weights of 'triage' were selected on the evaluated rows" in outcome.err
    (tmp_path / "training.json").write_text(json.dumps(record | {"data": {"heldout_sha256": "other"}}))
    assert cli("advise", tmp_path / "report.json", *options).code == 0


def test_a_report_without_adapters_needs_no_training_cost() -> None:
    advised = advice(FEW_SHOT, RAG, terms=CostTerms())
    assert (advised.recommendation.path, advised.break_evens, advised.compared_pair) == ("rag", (), None)
    with pytest.raises(UsageError):
        advice(FEW_SHOT, LORA, terms=CostTerms())
