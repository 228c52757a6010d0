"""`pointsman prices import` converts LiteLLM's price table to prices of the configuration, and names invalid
entries."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import load_config
from pointsman_lab.prices.litellm_table import read_table, to_prices
from pointsman_lab.prices.models_edit import check_edit, with_keys
from pointsman_lab.prices.present import present_prices
from pointsman_lab.prices.price_import import ImportOrder, import_prices
from pointsman_lab.report import Report

MINI = {"litellm_provider": "openai", "input_cost_per_token": 1.5e-07, "output_cost_per_token": 6e-07,
        "cache_read_input_token_cost": 7.5e-08, "mode": "chat"}  # fmt: skip
OPUS = {
    "litellm_provider": "anthropic", "input_cost_per_token": 5e-06, "output_cost_per_token": 2.5e-05,
    "cache_read_input_token_cost": 5e-07, "cache_creation_input_token_cost": 6.25e-06,
    "cache_creation_input_token_cost_above_1hr": 1e-05, "input_cost_per_token_above_200k_tokens": 1e-05,
    "output_cost_per_token_above_200k_tokens": 3.75e-05, "cache_read_input_token_cost_above_200k_tokens": 1e-06,
    "cache_creation_input_token_cost_above_200k_tokens": 1.25e-05,
    "cache_creation_input_token_cost_above_1hr_above_200k_tokens": 2e-05,
}  # fmt: skip
CONFIG = """\
# our models
prices_as_of: 2026-01-01 # checked by hand
models:
  # the small one
  mini: {upstream: gpt-9-mini, context_window: 900, usd_per_million_tokens: {prompt: 0.2, cached: 0.1, completion: 0.6}}
  claude-opus-9:
    context_window: 1000000
    usd_per_million_tokens: # of the invoice
      prompt: 5
      cached: 0.5
      completion: 25 # dollars

    # a remark that stays
    fallback: [mini]
  new-one:
  own: {context_window: 8192, usd_per_million_tokens: unknown}
engines:
  openai: {model: mini, provider: openai, api_key_env: KEY}
  claude: {model: claude-opus-9, provider: anthropic, api_key_env: KEY}
  groq: {model: new-one, upstream: org/new-one, provider: groq, api_key_env: KEY}
  local: {model: own, url: "http://localhost:8000"}
paths: {first: {model: mini}}
"""
NEW = {"litellm_provider": "groq", "input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06}
TABLE = {"sample_spec": {"mode": "one of"}, "gpt-9-mini": MINI, "claude-opus-9": OPUS, "groq/org/new-one": NEW}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pointsman.yaml").write_text(CONFIG)
    return tmp_path


def imported(folder: Path, table: Any = TABLE, **order: Any) -> Report:
    file = folder / "table.json"
    file.write_text(table if isinstance(table, str) else json.dumps(table))
    return import_prices(ImportOrder(folder, str(file), **order))


def kinds(entry: dict[str, Any]) -> dict[str, Any]:
    prices = to_prices("m", {**MINI, **entry})
    return prices.usd_per_million_tokens.model_dump(exclude_none=True, exclude_defaults=True)


# -- the table


def test_each_kind_of_token_has_its_price() -> None:
    entry = {"input_cost_per_audio_token": 1e-5, "output_cost_per_audio_token": 2e-5, "cache_creation_input_token_cost":
             2e-7, "output_cost_per_reasoning_token": 7e-7, "input_cost_per_token_batches": 1e-9}  # fmt: skip
    assert kinds(entry) == {
        "prompt": 0.15, "cached": 0.075, "completion": 0.6, "cache_write": 0.2, "prompt_audio": 10.0,
        "completion_audio": 20.0, "reasoning": 0.7,
    }  # fmt: skip


FURTHER = {
    "search_context_cost_per_query": {"search_context_size_low": 0.01, "search_context_size_high": 0.02},
    "input_cost_per_token_ultrafast": 1e-6, "output_cost_per_token_above_200k_tokens_ultrafast": 2e-6,
    "cache_read_input_token_cost_balanced": 1e-7, "input_cost_per_token_cache_hit": 1e-9,
    "citation_cost_per_token": 2e-6,
    "input_cost_per_token_priority": 1e-5, "output_cost_per_image": 0.0, "code_interpreter_cost_per_session": None,
    "google_maps_grounding_cost_per_query": {"one": 0.0}, "input_cost_per_token_batches": 1e-9,
}  # fmt: skip


def test_prices_of_other_kinds_are_named() -> None:
    assert to_prices("m", MINI | FURTHER).not_imported == (
        "citation_cost_per_token", "input_cost_per_token_cache_hit", "search_context_cost_per_query",
        "tier balanced", "tier priority", "tier ultrafast",
    )  # fmt: skip
    priority = {"input_cost_per_token_priority": 1e-5, "output_cost_per_token_priority": 5e-5}
    assert to_prices("m", MINI | priority | {"input_cost_per_request": 0.1}).not_imported == ()
    assert to_prices("m", OPUS | priority).not_imported == ("tier priority",)
    incomplete = {name: price for name, price in OPUS.items() if "1hr_above_200k" not in name}
    assert to_prices("m", incomplete).not_imported == ("cache_creation_input_token_cost_above_1hr",)
    ranges = [{"range": [0, 1e6], "input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6, "video_cost": 1e-6}]
    tiered = {"litellm_provider": "dashscope", "tiered_pricing": ranges}
    assert to_prices("m", tiered).not_imported == ("video_cost",)


def test_the_report_names_what_is_not_imported(folder: Path) -> None:
    report = imported(folder, TABLE | {"gpt-9-mini": MINI | FURTHER})
    assert report.facts["not_imported"].keys() == {"mini"}
    (section,) = [one for one in report.page if one.heading == "Prices that are not imported"]
    assert "has an unknown cost" in section.lines[0]
    assert ("mini", "tier ultrafast") in section.rows


def test_reasoning_of_long_prompts_is_never_cheaper_than_it_may_be() -> None:
    prices = kinds({
        "output_cost_per_reasoning_token": 2e-6, "input_cost_per_token_above_200k_tokens": 3e-7,
        "output_cost_per_token_above_200k_tokens": 1e-6,
    })  # fmt: skip
    assert (prices["reasoning"], prices["long_prompts"][0]["reasoning"]) == (2.0, 2.0)


def test_a_cached_token_without_a_price_costs_as_much_as_another() -> None:
    assert kinds({"cache_read_input_token_cost": None})["cached"] == 0.15


def test_a_cache_write_that_is_free_has_no_price() -> None:
    assert "cache_write" not in kinds({"cache_creation_input_token_cost": 0.0})


def test_long_prompts_and_service_tiers_have_their_prices() -> None:
    flex = {f"{name}_flex": price / 2 for name, price in OPUS.items() if isinstance(price, float)}
    prices = to_prices("m", OPUS | flex | {"input_cost_per_token_priority": 1e-5})
    (longer,) = prices.usd_per_million_tokens.long_prompts
    assert (longer.above, longer.prompt, longer.cache_write_1h) == (200_000, 10.0, 20.0)
    assert prices.service_tiers.keys() == {"flex"}
    assert prices.service_tiers["flex"].long_prompts[0].completion == 18.75


def test_a_tier_without_prices_of_long_prompts_is_left_out() -> None:
    priority = {"input_cost_per_token_priority": 1e-5, "output_cost_per_token_priority": 5e-5}
    assert to_prices("m", OPUS | priority).service_tiers == {}
    assert to_prices("m", MINI | priority).service_tiers["priority"].prompt == 10.0


def test_a_kind_without_a_price_for_long_prompts_has_none_at_all() -> None:
    incomplete = {name: price for name, price in OPUS.items() if "1hr_above_200k" not in name}
    assert to_prices("m", incomplete).usd_per_million_tokens.cache_write_1h is None


def test_only_a_special_kind_may_depend_on_the_length() -> None:
    entry = {"input_cost_per_audio_token": 1e-6, "input_cost_per_audio_token_above_200k_tokens": 2e-6}
    assert kinds(entry)["long_prompts"] == (
        {"above": 200_000, "prompt": 0.15, "cached": 0.075, "completion": 0.6, "prompt_audio": 2.0},
    )


def test_prices_by_range_become_those_of_long_prompts() -> None:
    ranges = [
        {"range": [0, 32000], "input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6},
        {"range": [32000, 128000], "input_cost_per_token": 3e-6, "output_cost_per_token": 4e-6},
    ]
    prices = to_prices("m", {"tiered_pricing": ranges}).usd_per_million_tokens
    assert (prices.prompt, prices.long_prompts[0].above, prices.long_prompts[0].completion) == (1.0, 32_000, 4.0)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"input_cost_per_token": -1e-7}, "'m': input_cost_per_token is negative (-1e-07)"),
        ({"cache_read_input_token_cost": "cheap"}, "cache_read_input_token_cost is 'cheap', and should be dollars"),
        ({"output_cost_per_token": True}, "output_cost_per_token is True"),
        ({"output_cost_per_token": float("nan")}, "output_cost_per_token is nan"),
        ({"input_cost_per_token": None}, "'m' has no input_cost_per_token and output_cost_per_token"),
        ({"input_cost_per_token_above_200k_tokens": 1e-6}, "has no price of the completion above 200,000 tokens"),
        ({"input_cost_per_request": -1}, "input_cost_per_request is negative"),
        ({"tiered_pricing": "many"}, "tiered_pricing should be a list"),
        ({"tiered_pricing": [{"range": [0]}]}, "entry 1 of tiered_pricing needs a range [FROM, TO]"),
        (
            {"tiered_pricing": [{"range": [0, 10]}, {"range": [20, 30]}]},
            "the ranges of tiered_pricing contradict each other: [20, 30] follows one that ends at 10",
        ),
        ({"tiered_pricing": [{"range": [0, 10]}, {"range": [5, 30]}]}, "[5, 30] follows one that ends at 10"),
        (
            {"tiered_pricing": [], "input_cost_per_token_above_200k_tokens": 1e-6},
            "has tiered_pricing and prices of long prompts (_above_...): they contradict",
        ),
    ],
)
def test_a_wrong_entry_is_named_with_what_is_wrong(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        to_prices("m", {**MINI, **entry})
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("[1]", "is no price table of LiteLLM: it should have an object for each model"),
        ('{"a": {"b": 1}}', "is no price table of LiteLLM"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_a_file_that_is_no_price_table_is_refused(folder: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        imported(folder, text)
    assert message in str(error.value)


def test_without_the_package_the_file_can_be_named() -> None:
    with pytest.raises(ConfigError, match="pip install litellm, or name a file of its price table"):
        read_table("litellm")
    with pytest.raises(ConfigError, match=r"no-file.json cannot be read: No such file"):
        read_table("no-file.json")


# -- the configuration


def test_the_difference_is_shown_and_nothing_is_written(folder: Path) -> None:
    report = imported(folder)
    rows = {row[:2]: row[2:] for row in report.page[0].rows}
    assert rows["mini", "prompt"] == ("0.2", "0.15", "-25%")
    assert ("mini", "completion") not in rows
    assert rows["claude-opus-9", "cache_write"] == ("-", "6.25", "new")
    assert rows["claude-opus-9", "completion above 200,000"] == ("-", "37.5", "new")
    assert rows["new-one", "prompt"] == ("-", "1", "new")
    assert report.facts["missing"] == {"own": "no engine of it is a provider's that LiteLLM lists"}
    assert (folder / "pointsman.yaml").read_text() == CONFIG


def test_the_prices_are_written_and_everything_else_stays(folder: Path) -> None:
    (folder / "pointsman.yaml").chmod(0o640)
    imported(folder, write=True, models=("mini", "claude-opus-9"))
    text = (folder / "pointsman.yaml").read_text()
    for kept in ("# our models", "# checked by hand", "# the small one", "# of the invoice", "# a remark that stays"):
        assert kept in text
    assert (folder / "pointsman.yaml").stat().st_mode & 0o777 == 0o640
    assert {file.name for file in folder.iterdir()} == {"pointsman.yaml", "table.json"}
    (folder / "pointsman.yaml").write_text(text.replace("  new-one:\n", "").replace("  groq:", "  #"))
    models = load_config(folder, {}).models
    prices = models.models["claude-opus-9"].usd_per_million_tokens
    assert prices is not None
    assert (prices.cache_write_1h, prices.long_prompts[0].cached, models.models["claude-opus-9"].fallback) == (
        10.0, 1.0, ("mini",),
    )  # fmt: skip
    assert models.prices_as_of is not None
    assert models.prices_as_of > date(2026, 1, 1)


def test_a_model_without_keys_gets_its_prices(folder: Path) -> None:
    report = imported(folder, write=True, models=("new-one",))
    assert report.facts["written"] == str(folder / "pointsman.yaml")
    expected = "  new-one: {usd_per_million_tokens: {prompt: 1, cached: 1, completion: 2}}\n"
    assert expected in (folder / "pointsman.yaml").read_text()


def test_a_second_import_finds_nothing_to_write(folder: Path) -> None:
    imported(folder, write=True)
    text = (folder / "pointsman.yaml").read_text()
    report = imported(folder, write=True)
    assert report.facts["changed"] == {}
    assert report.facts["same"] == ["mini", "claude-opus-9", "new-one"]
    assert (folder / "pointsman.yaml").read_text() == text


def test_new_prices_may_hold_from_a_day_on(folder: Path) -> None:
    imported(folder, write=True, models=("mini",), starting=date(2027, 1, 1))
    imported(folder, {**TABLE, "gpt-9-mini": {**MINI, "input_cost_per_token": 3e-7}}, write=True, models=("mini",),
             starting=date(2027, 3, 1))  # fmt: skip
    text = (folder / "pointsman.yaml").read_text()
    assert "prices_as_of: 2026-01-01 # checked by hand" in text
    assert "usd_per_million_tokens: {prompt: 0.2, cached: 0.1, completion: 0.6}}" in text
    assert "price_changes: [{starting: 2027-01-01, usd_per_million_tokens: {prompt: 0.15," in text
    assert "{starting: 2027-03-01, usd_per_million_tokens: {prompt: 0.3," in text
    report = imported(folder, write=True, models=("mini",))
    assert report.facts["problems"] == {"mini": "it has price_changes: name the day of the new prices with --starting"}
    assert report.failure


def test_a_wrong_entry_leaves_its_model_as_it_is_and_is_reported(folder: Path) -> None:
    report = imported(folder, {**TABLE, "claude-opus-9": {**OPUS, "input_cost_per_token": -1}}, write=True)
    assert report.failure.startswith("model 'claude-opus-9' is not imported: 'claude-opus-9': input_cost_per_token is")
    assert "mini" in report.facts["changed"]
    assert "      completion: 25 # dollars" in (folder / "pointsman.yaml").read_text()


def test_an_entry_of_another_provider_is_not_taken(folder: Path) -> None:
    report = imported(folder, {**TABLE, "gpt-9-mini": {**MINI, "litellm_provider": "azure"}})
    assert report.facts["missing"]["mini"].startswith("the table has none of: openai/gpt-9-mini, gpt-9-mini")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "  own: {context_window: 8192, usd_per_million_tokens: unknown}",
            "  own: *shared",
            "'mini' is not written out",
        ),
        (
            "usd_per_million_tokens: unknown}",
            "usd_per_million_tokens: *prices}",
            "'usd_per_million_tokens' of mini is shared by an alias",
        ),
        ("  new-one:\n", "  new-one: text\n", "model 'new-one' is no mapping"),
        ("models:\n", "others:\n", "has no models"),
        ("engines:\n", "others:\n", "has no engines"),
        ("  openai: {", "  openai: [{", "is not YAML"),
    ],
)
def test_a_file_that_cannot_be_changed_safely_stays_as_it_is(folder: Path, old: str, new: str, message: str) -> None:
    text = CONFIG.replace(old, new)
    if "*shared" in new:
        text = text.replace("  mini: {", "  mini: &shared {")
    if "*prices" in new:
        text = text.replace("tokens: {prompt: 0.2", "tokens: &prices {prompt: 0.2")
    (folder / "pointsman.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        imported(folder, write=True)
    assert message in str(error.value)
    assert (folder / "pointsman.yaml").read_text() == text


def test_a_model_whose_engines_are_listed_at_different_prices_has_no_present_price(folder: Path) -> None:
    name = "openai/gpt-oss-120b"
    engines = {provider: {"model": name, "provider": provider} for provider in ("groq", "together")}
    content: dict[str, Any] = {"models": {name: {"context_window": 8192}}, "engines": engines}
    assert present_prices(name, content, date(2027, 1, 1)) == {}
    del engines["together"]
    assert present_prices(name, content, date(2027, 1, 1))["cached"] == 0.075


def test_an_unknown_model_is_named_with_the_known_ones(folder: Path) -> None:
    with pytest.raises(ConfigError, match="has no model 'mimi'; it has: mini, claude-opus-9, new-one, own"):
        imported(folder, models=("mimi",))


def test_an_edit_that_would_change_something_else_is_refused() -> None:
    before = "models:\n  a: {x: 1}\n  b: {x: 2}\n"
    keys = {"a": {"y": 3}}
    after = with_keys(before, keys, {})
    check_edit(before, after, keys, {})
    with pytest.raises(ConfigError, match="without changing something else"):
        check_edit(before, after.replace("x: 2", "x: 5"), keys, {})
