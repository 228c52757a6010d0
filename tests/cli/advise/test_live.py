"""Advice from a running gateway's ratings: a recommendation, intervals, and how many ratings would settle it."""

from collections.abc import Callable
from typing import Any

import pytest
from pointsman_cli.advise.live import LiveAdvice, RatedPath, difference, live_advice, ratings_to_settle
from pointsman_servicekit.statistics import two_sided_z, wilson_interval

Cli = Callable[..., Any]


def path(name: str, kind: str, ratings: float, mean: float, usd: float | None) -> dict[str, Any]:
    quality = {"ratings": ratings, "mean": mean, "bound": 0.0} if ratings else None
    return {"path": name, "kind": kind, "role": "policy", "quality": quality, "usd_per_1k": usd, "p95_seconds": 1.0}


def advice(*paths: dict[str, Any]) -> LiveAdvice:
    return live_advice({"task": "triage", "paths": list(paths)})


def rated(ratings: float, mean: float) -> RatedPath:
    low, high = wilson_interval(mean, ratings, two_sided_z(0.95))
    return RatedPath("some", "prompt", ratings, mean, low, high, None, 1.0)


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
def test_the_stated_number_of_ratings_is_about_enough(first: float, second: float) -> None:
    needed = ratings_to_settle(rated(1000, first), rated(1000, second))
    low, high = difference(rated(1.1 * needed + 8, first), rated(1.1 * needed + 8, second))
    assert low > 0 or high < 0 or max(-low, high) <= 0.03 or first == second


def test_a_report_and_live_exclude_each_other(cli: Cli) -> None:
    for arguments in (["advise"], ["advise", "report.json", "--live"]):
        outcome = cli(*arguments)
        assert outcome.code == 2
        assert "give either a REPORT" in outcome.err


def test_a_gateway_that_does_not_answer_is_named(cli: Cli) -> None:
    outcome = cli("advise", "--live", "--gateway", "http://127.0.0.1:9")
    assert outcome.code == 1
    assert "http://127.0.0.1:9 cannot be read" in outcome.err
