"""Price tables and configurations that contradict themselves or each other never lead to a configuration that is
invalid, or has another price than the table.
"""

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import load_config
from pointsman_lab.prices.litellm_table import read_table, to_prices

from tests.gateway.test_lab_prices import CONFIG, MINI, OPUS, TABLE, folder, imported

__all__ = ["folder"]  # a fixture
CHANGE = "price_changes: [{starting: 2027-01-01, usd_per_million_tokens: {prompt: 9, cached: 9, completion: 9}"


def test_a_table_may_begin_with_a_byte_order_mark_and_have_windows_line_ends(folder: Path) -> None:
    file = folder / "windows.json"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(TABLE, indent=1).replace("\n", "\r\n").encode())
    assert read_table(str(file)) == TABLE


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"input_cost_per_token": 10**400}, "input_cost_per_token is 1000"),
        ({"input_cost_per_token": 1e303}, "finite number"),
        ({"input_cost_per_token": 1e6}, "less than or equal to"),
        ({"tiered_pricing": [{"range": [0, float("inf")]}]}, "entry 1 of tiered_pricing needs a range [FROM, TO]"),
        ({"tiered_pricing": [{"range": [float("nan"), 5]}]}, "entry 1 of tiered_pricing needs a range [FROM, TO]"),
    ],
)
def test_numbers_that_are_too_large_are_refused(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        to_prices("m", {**MINI, **entry})
    assert message in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("twice", ["entry", "price"])
def test_a_model_that_stands_twice_with_different_prices_is_not_imported(folder: Path, twice: str) -> None:
    entry, other = json.dumps(MINI), json.dumps({**MINI, "input_cost_per_token": 9e-7})
    if twice == "price":
        text = f'{{"gpt-9-mini": {entry[:-1]}, "input_cost_per_token": 9e-7}}}}'
    else:
        text = f'{{"gpt-9-mini": {entry}, "gpt-9-mini": {other}}}'
    report = imported(folder, text, models=("mini",))
    assert report.facts["problems"] == {"mini": "'gpt-9-mini' has two different values in the table: keep one of them"}
    assert imported(folder, text.replace("9e-7", "1.5e-07").replace("9e-07", "1.5e-07")).facts["problems"] == {}


def test_prices_of_prompts_that_the_context_window_excludes_are_not_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "sk")
    file = folder / "pointsman.yaml"
    file.write_text(CONFIG.replace("1000000", "200000").replace("  new-one:\n", "  new-one: {context_window: 8192}\n"))
    imported(folder, write=True)
    (longer,) = to_prices("m", OPUS).usd_per_million_tokens.long_prompts
    assert longer.above == 200_000
    prices = load_config(folder).models.models["claude-opus-9"].usd_per_million_tokens
    assert prices is not None
    assert (prices.long_prompts, prices.cache_write_1h) == ((), 10.0)


def test_new_prices_are_compared_with_those_of_the_day_on_which_they_begin(folder: Path) -> None:
    file = folder / "pointsman.yaml"
    file.write_text(CONFIG.replace("cached: 0.1, completion: 0.6}}", f"cached: 0.1, completion: 0.6}}, {CHANGE}}}]}}"))
    same_as_now = {**MINI, "input_cost_per_token": 2e-7, "cache_read_input_token_cost": 1e-7}
    order = {"models": ("mini",), "write": True}
    earlier = imported(folder, {"gpt-9-mini": same_as_now}, starting=date(2026, 12, 24), **order)
    assert earlier.facts["same"] == ["mini"]
    report = imported(folder, {"gpt-9-mini": same_as_now}, starting=date(2027, 3, 1), **order)
    assert report.facts["changed"]["mini"]["present"] == {"prompt": 9, "cached": 9, "completion": 9}
    assert "{starting: 2027-03-01, usd_per_million_tokens: {prompt: 0.2, cached: 0.1, completion: 0.6}}]" in (
        file.read_text()
    )


def test_prices_that_would_make_the_configuration_invalid_are_not_written(folder: Path) -> None:
    file = folder / "pointsman.yaml"
    tiers = "service_tiers: {flex: {prompt: 1, cached: 1, completion: 1}}"
    text = CONFIG.replace("cached: 0.1, completion: 0.6}}", f"cached: 0.1, completion: 0.6}}, {CHANGE}, {tiers}}}]}}")
    file.write_text(text)
    report = imported(folder, models=("mini",), write=True, starting=date(2027, 3, 1))
    assert report.facts["problems"]["mini"] == (
        "models.mini: the price change of 2027-03-01 has no service tier 'flex', which has a price until then: "
        "write all tiers"
    )
    assert file.read_text() == text
