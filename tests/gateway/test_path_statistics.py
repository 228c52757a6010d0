"""The means of paths' statistics; their number is bounded."""

import pytest
from pointsman_gateway.domain import Path, Usage
from pointsman_gateway.metering import expected_cost
from pointsman_gateway.metering.expected_cost import PathStatistics

CONFIGURED = Path("triage", "tiny", fingerprint="f1")


def named(number: int) -> Path:
    return Path(f"adapter:triage@{number:012x}", "tiny")


def test_paths_that_callers_name_replace_the_longest_unused_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expected_cost, "MAX_PATHS", 3)
    statistics = PathStatistics()
    for path in (CONFIGURED, named(1), named(2), named(3), named(1), named(4)):
        statistics.add(path, 10, Usage(20, 5), 0)
    known = [number for number in range(1, 5) if statistics.of(named(number))]
    assert known == [1, 3, 4]
    assert statistics.of(CONFIGURED) is not None


def test_a_new_configured_path_gets_statistics_however_many_others_were_named() -> None:
    statistics = PathStatistics()
    for number in range(expected_cost.MAX_PATHS + 10):
        statistics.add(named(number), 10, Usage(20, 5), 0)
    statistics.add(CONFIGURED, 10, Usage(20, 5), 0)
    means = statistics.of(CONFIGURED)
    assert means is not None
    assert (means.added_tokens, means.completion_tokens) == (10, 5)
    assert statistics.of(named(0)) is None
