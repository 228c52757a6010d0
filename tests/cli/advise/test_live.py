"""Advice from a running gateway's ratings: a recommendation with intervals, and how many ratings would decide."""

from collections.abc import Callable
from typing import Any

import pytest
from pointsman_cli.advise.live import LiveAdvice, RatedPath, difference, live_advice, live_lines, ratings_to_settle
from pointsman_servicekit.confidence_sequences import limits
from rich.console import Console

Cli = Callable[..., Any]


def path(
    name: str, kind: str, ratings: float, mean: float, usd: float | None, *, estimated: bool = False
) -> dict[str, Any]:
    quality = {"ratings": ratings, "mean": mean, "bound": 0.0} if ratings else None
    return {"path": name, "kind": kind, "role": "policy", "quality": quality, "usd_per_1k": usd, "p95_seconds": 1.0,
            "estimated": estimated}  # fmt: skip


def advice(*paths: dict[str, Any]) -> LiveAdvice:
    return live_advice({"task": "triage", "paths": list(paths)})


def rated(ratings: float, mean: float) -> RatedPath:
    low, high = limits(mean, ratings, 0.95)
    return RatedPath("some", "prompt", ratings, mean, low, high, low, high, None, False, 1.0)


def test_a_clearly_better_adapter_is_recommended_and_settled() -> None:
    found = advice(path("few_shot", "prompt", 200, 0.5, 4.0), path("adapter", "lora", 200, 0.8, 6.0))
    assert (found.verdict, found.path, found.settled) == ("train", "adapter", True)
    assert found.further_ratings == {}


def test_the_cheaper_of_equal_paths_is_recommended() -> None:
    found = advice(path("rag", "rag", 9000, 0.8, 4.0), path("both", "hybrid", 9000, 0.805, 9.0))
    assert (found.verdict, found.path, found.settled) == ("add retrieval", "rag", True)


def test_of_low_ratings_half_the_best_one_is_not_equal() -> None:
    paths = path("few_shot", "prompt", 300, 0.037, 4.0), path("adapter", "lora", 300, 0.017, 1.0)
    assert advice(*paths).path == "few_shot"


def test_of_paths_without_a_good_rating_the_cheapest_is_recommended() -> None:
    found = advice(path("few_shot", "prompt", 300, 0.0, 4.0), path("adapter", "lora", 300, 0.0, 1.0))
    assert (found.path, found.settled) == ("adapter", True)


def test_few_ratings_settle_nothing_and_the_missing_number_is_stated() -> None:
    found = advice(path("few_shot", "prompt", 10, 0.6, 4.0), path("adapter", "lora", 12, 0.8, 3.0))
    assert found.path == "adapter"
    assert not found.settled
    more = found.further_ratings
    assert more["few_shot"] - more["adapter"] == 2
    prompted = path("few_shot", "prompt", 10 + more["few_shot"], 0.6, 4.0)
    assert advice(prompted, path("adapter", "lora", 12 + more["adapter"], 0.8, 3.0)).settled


def test_a_path_of_unknown_cost_is_not_called_cheapest() -> None:
    assert advice(path("a", "prompt", 50, 0.8, None), path("b", "rag", 50, 0.8, 5.0)).path == "b"


def test_a_task_without_ratings_has_no_recommendation() -> None:
    found = advice(path("few_shot", "prompt", 0, 0.0, 4.0), path("adapter", "lora", 0, 0.0, 3.0))
    assert (found.path, found.settled, found.unrated) == ("", False, ("few_shot", "adapter"))
    assert "shadow" in found.verdict


def test_a_single_rated_path_settles_nothing() -> None:
    found = advice(path("few_shot", "prompt", 500, 0.9, 4.0), path("adapter", "lora", 0, 0.0, 3.0))
    assert (found.path, found.settled, found.unrated) == ("few_shot", False, ("adapter",))


@pytest.mark.parametrize(("first", "second"), [(0.9, 0.7), (0.55, 0.5), (1.0, 1.0), (0.0, 1.0)])
def test_the_stated_number_of_ratings_is_enough_and_a_few_less_are_not(first: float, second: float) -> None:
    def is_settled(ratings: float) -> bool:
        low, high = difference(rated(ratings, first), rated(ratings, second))
        return low > 0 or high < 0 or max(-low, high) <= 0.03

    needed = ratings_to_settle(rated(1000, first), rated(1000, second))
    assert is_settled(needed)
    assert not is_settled(0.98 * needed - 1)


def test_both_intervals_are_shown_and_the_wider_one_decides(capsys: pytest.CaptureFixture[str]) -> None:
    found = advice(path("few_shot", "prompt", 200, 0.62, 4.0), path("adapter", "lora", 200, 0.73, 6.0))
    assert not found.settled  # a fixed-sample interval of the difference would exclude 0
    assert found.reasons[0] == (
        "adapter is rated 0.730 (0.66 to 0.79 now; 0.62 to 0.82 if you look at any time; 200 ratings)"
    )
    assert "not settled" in found.reasons[1]
    Console(width=200).print(live_lines(found))
    assert "0.55 to 0.68" in capsys.readouterr().out


def test_the_costs_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    known, estimate = path("few_shot", "prompt", 90, 0.6, 4.0), path("adapter", "lora", 90, 0.7, 6.0, estimated=True)
    for paths in ([known], [known, estimate]):
        Console(width=200).print(live_lines(advice(*paths)))
        shown = capsys.readouterr().out
        assert "$ per 1,000: mean of the receipts, with an adapter's share of its training" in shown
        assert ("about: expected, since the path has not answered as auto yet" in shown) == (estimate in paths)
        assert ("about 6.0000" in shown) == (estimate in paths)


def test_a_report_and_live_exclude_each_other(cli: Cli) -> None:
    for arguments in (["advise"], ["advise", "report.json", "--live"]):
        outcome = cli(*arguments)
        assert outcome.code == 2
        assert "give either a REPORT" in outcome.err


def test_a_gateway_that_does_not_answer_is_named(cli: Cli) -> None:
    outcome = cli("advise", "--live", "--gateway", "http://127.0.0.1:9")
    assert outcome.code == 1
    assert "no gateway answers at http://127.0.0.1:9; start one with `pointsman up EXAMPLE_FOLDER`" in outcome.err
