"""Exports of usage and costs, in the formats that the providers document, are converted to lines with the field names
of receipts.

Sources of the files in documented_exports: OpenAI API reference, "Usage" and "Costs", and the columns of the usage
page's CSV files; Claude Platform Docs, "Get Messages Usage Report" and "Get Cost Report"; Amazon Bedrock user guide,
"Understanding your Amazon Bedrock Cost and Usage Report data"; AWS Data Exports user guide, "Cost and Usage Report";
Microsoft Learn, "Understand cost details fields". Numbers are theirs, or made up where a page has none.
"""

import gzip
import json
from collections import defaultdict
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from pointsman_gateway.config.field_types import ConfigError
from pointsman_lab.reconcile.exports.lines import REQUESTS, TOOLS, Export, Line
from pointsman_lab.reconcile.exports.meter_words import kind_of
from pointsman_lab.reconcile.exports.registry import read_exports

FILES = Path(__file__).with_name("documented_exports")
NOVEMBER = (1730419200.0, 1730505600.0)
PICODOLLARS = 10**12


def read(*names: str, zone: Any = UTC) -> list[Export]:
    return read_exports([FILES / name for name in names], zone)


def counts(export: Export, model: str, tier: str | None = None) -> dict[str, Fraction]:
    """Returns a model's tokens by kind and its requests, without zeros."""
    found: dict[str, Fraction] = defaultdict(Fraction)
    for line in export.lines:
        if line.model == model and line.count and tier in (None, line.tier):
            found[line.kind] += line.count
    return dict(found)


def dollars(export: Export, model: str) -> dict[str, float]:
    found: dict[str, Fraction] = defaultdict(Fraction)
    for line in export.lines:
        if line.model == model and line.picodollars:
            found[line.kind] += line.picodollars
    return {kind: float(picodollars / PICODOLLARS) for kind, picodollars in found.items()}


def test_openais_usage_is_divided_by_kind_model_and_key() -> None:
    (export,) = read("openai_usage.json")
    assert counts(export, "gpt-4o-mini-2024-07-18") == {"prompt": 200, "cached": 800, "completion": 500, REQUESTS: 5}
    assert {(line.begin, line.end, line.key, line.tier) for line in export.lines} == {(*NOVEMBER, "key_abc", None)}
    assert export.covered == [NOVEMBER, (1730505600.0, 1730592000.0)]
    assert "cache_write" not in export.kinds


def test_openais_newer_fields_divide_a_prompt_completely() -> None:
    (export,) = read("openai_usage_kinds.json")
    assert counts(export, "gpt-5.6", "flex") == {
        "prompt": 1000, "cached": 700, "cache_write": 200, "prompt_audio": 100, "completion": 440,
        "completion_audio": 60, REQUESTS: 5,
    }  # fmt: skip
    assert counts(export, "text-embedding-3-small") == {"prompt": 16, REQUESTS: 2}
    assert counts(export, "gpt-5.6")[TOOLS] == 3
    assert export.notes == ["left out, since no gateway sends such requests: usage.moderations"]


def test_openais_costs_name_kinds_in_their_line_items() -> None:
    (export,) = read("openai_costs.json")
    assert dollars(export, "gpt-4o-mini-2024-07-18") == {"prompt": 0.06, "cached": 0.02, "completion": 0.24}
    assert dollars(export, "") == {TOOLS: 0.03}
    assert not export.has_counts


def test_openais_csv_files_say_the_same_as_its_api() -> None:
    usage, costs = read("openai_usage.csv", "openai_costs.csv")
    model = "gpt-4o-mini-2024-07-18"
    assert counts(usage, model, "") == {"prompt": 200, "cached": 800, "completion": 500, REQUESTS: 5}
    assert counts(usage, model, "batch") == {"prompt": 40, "completion": 10, REQUESTS: 2}
    assert dollars(costs, model) == {"prompt": 0.06}


def test_anthropics_usage_tells_writes_by_time_and_tiers_by_their_parts() -> None:
    (export,) = read("anthropic_usage.json")
    assert counts(export, "claude-sonnet-4-20250514", "") == {
        "prompt": 1500, "cached": 200, "cache_write": 500, "cache_write_1h": 1000, "completion": 500, TOOLS: 10,
    }  # fmt: skip
    assert counts(export, "claude-sonnet-4-20250514", "priority+us") == {"prompt": 15, "completion": 5}
    assert {line.key for line in export.lines} == {"apikey_01Rj2N8SVvo6BePZj99NhmiT"}


def test_anthropics_costs_are_in_cents() -> None:
    (export,) = read("anthropic_costs.json")
    assert dollars(export, "claude-sonnet-4-20250514") == {"prompt": 1.2378912}
    assert dollars(export, "") == {TOOLS: 0.1}


def test_awss_report_has_kinds_tiers_and_units_in_its_usage_types() -> None:
    (export,) = read("aws_cur2.csv")
    assert counts(export, "Claude4.6Sonnet") == {"prompt": 150_000, "cached": 100_000, "cache_write": 10_000}
    assert dollars(export, "Claude4.6Sonnet") == {"prompt": 0.45, "cached": 0.03, "cache_write": 0.0375}
    assert counts(export, "Nova2.0Lite", "flex") == {"prompt": 100}
    assert counts(export, "openai.gpt-oss-120b", "") == {"completion": 1_000_000}
    assert export.notes == ["left out Tax: $0.2000"]


def test_awss_legacy_report_has_marketplace_units_by_their_description() -> None:
    (export,) = read("aws_cur.csv")
    assert counts(export, "Claude Sonnet 4.6") == {"prompt": 500_000}
    assert dollars(export, "Claude Sonnet 4.6") == {"prompt": 1.5}


def test_azures_export_has_models_and_kinds_in_its_meters() -> None:
    (export,) = read("azure.csv")
    assert counts(export, "gpt 4o 1120") == {"prompt": 100_000, "cached": 40_000, "completion": 10_000}
    assert dollars(export, "gpt 4o 1120") == {"prompt": 0.25, "cached": 0.05, "completion": 0.1}
    assert counts(export, "GPT 5 Mini") == {"cached": 500_000}
    assert counts(export, "gpt 4o mini 0718") == {"completion": 1000}
    assert {line.key for line in export.lines} == {"ours"}
    assert export.notes == ["left out Refund: $-0.1000"]


def test_days_without_a_zone_begin_where_the_option_says(tmp_path: Path) -> None:
    (export,) = read("azure.csv", zone=ZoneInfo("America/Los_Angeles"))
    first = min(line.begin for line in export.lines)
    assert datetime.fromtimestamp(first, UTC) == datetime(2026, 11, 1, 7, tzinfo=UTC)


def test_a_compressed_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    text = (FILES / "azure.csv").read_text()
    file = tmp_path / "azure.csv.gz"
    file.write_bytes(gzip.compress(text.encode("utf-8-sig")))
    assert read_exports([file], UTC)[0].lines == read("azure.csv")[0].lines


def test_several_pages_in_one_file_are_read_together(tmp_path: Path) -> None:
    page = json.loads((FILES / "openai_usage.json").read_text())
    later = json.loads(json.dumps(page).replace("17304", "17314").replace("17305", "17315"))
    file = tmp_path / "pages.json"
    file.write_text(json.dumps([page, later]))
    (export,) = read_exports([file], UTC)
    assert counts(export, "gpt-4o-mini-2024-07-18")[REQUESTS] == 10


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("cached input", "cached"), ("Cd Inp", "cached"), ("cchd Inpt", "cached"), ("input", "prompt"),
        ("opt Gl 1M Tokens", "completion"), ("aud Inp glbl", "prompt_audio"), ("audio output", "completion_audio"),
        ("cache write", "cache_write"), ("cache write 1h", "cache_write_1h"),
        ("CacheWriteInputTokenCount", "cache_write"), ("hosting hours", None),
    ],
)  # fmt: skip
def test_words_of_meters_name_kinds(words: str, kind: str | None) -> None:
    assert kind_of(words) == kind


# -- bad input


def written(tmp_path: Path, content: Any, name: str = "export.json") -> Path:
    file = tmp_path / name
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def changed(name: str, old: str, new: str) -> str:
    text = (FILES / name).read_text()
    assert old in text
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("when,what,how much\n1,2,3\n", "has the columns when, what, how_much, which are of no known export:"),
        ("", "is empty: export it again"),
        ("[]", "has no answer of an API"),
        ("{", "is not JSON"),
        ('{"data": 5}', "is not an export of a known kind; known are JSON of OpenAI's usage and costs APIs"),
        (changed("openai_usage.json", '"has_more": false', '"has_more": true'), "is not complete: get the next page"),
        (changed("openai_usage.json", '"input_tokens": 1000', '"input_tokens": -1'), "input_tokens is -1"),
        (changed("openai_usage.json", '"input_tokens": 1000', '"input_tokens": "many"'), "is 'many', and should be"),
        (changed("openai_usage.json", '"input_tokens": 1000', '"input_tokens": 700'), "special kinds are more than"),
        (changed("openai_usage.json", '"end_time": 1730505600', '"end_time": 5'), "should be Unix seconds"),
        (changed("openai_usage.json", '"object": "organization.usage.completions.result",', ""), "without its 'ob"),
        (changed("openai_costs.json", '0.06, "currency": "usd"', '0.06, "currency": "eur"'), "is in eur, and"),
        (changed("anthropic_costs.json", '"10",\n          "currency": "USD"', '"10",\n          "currency": "GBP"'),
         "is in GBP, and receipts are in dollars: export the costs in USD"),
        (changed("anthropic_usage.json", "2025-08-02T00:00:00Z", "2025-08-02T00:00:00"), "ending_at has no time zone"),
        (changed("anthropic_usage.json", "2025-08-02T00:00:00Z", "tomorrow"), "ending_at is no time such as"),
        (changed("aws_cur2.csv", "0.3,100,", "0.3,lots,"), "line_item_usage_amount is 'lots', and should be a number"),
        (changed("aws_cur2.csv", "Claude4.6Sonnet-input-tokens,1K tokens", "Claude4.6Sonnet-input-tokens,Units"),
         "says how many tokens a unit has"),
        (changed("aws_cur2.csv", "2026-11-01T00:00:00Z,USD,Usage,AmazonBedrock,,0.15",
                 "2026-11-01T00:00:00Z,EUR,Usage,AmazonBedrock,,0.15"), "is in EUR"),
        (changed("azure.csv", "100,1K,0.25,USD", "100,1K,0.25,EUR"), "is in EUR, and receipts are in dollars"),
        (changed("azure.csv", "100,1K,0.25", "100,each,0.25"), "UnitOfMeasure is 'each', and should be such"),
        (changed("azure.csv", "11/02/2026,Foundry", "someday,Foundry"), "'someday' is no day such as 2026-11-01"),
        (changed("azure.csv", "0.1,USD,Usage", "0.1,USD,Usage,1,2,3"), "values for 10 columns"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_export_is_said(tmp_path: Path, content: str, message: str) -> None:
    name = "export.json" if content[:1] in ("{", "[") else "export.csv"
    with pytest.raises(ConfigError) as error:
        read_exports([written(tmp_path, content, name)], UTC)
    assert message in str(error.value)
    assert "export." in str(error.value)


def test_two_files_with_the_same_days_are_refused(tmp_path: Path) -> None:
    text = (FILES / "openai_usage.json").read_text()
    files = [written(tmp_path, text, name) for name in ("a.json", "b.json")]
    with pytest.raises(ConfigError, match=r"b.json has days that another file has too"):
        read_exports(files, UTC)
    table = (FILES / "azure.csv").read_text()
    hourly = table.replace("11/01/2026", "2026-11-01T05:00")
    with pytest.raises(ConfigError, match="intervals that overlap"):
        read_exports([written(tmp_path, table, "a.csv"), written(tmp_path, hourly, "b.csv")], UTC)
    with pytest.raises(ConfigError, match=r"c.csv has the same content as .*a.csv"):
        read_exports([written(tmp_path, table, "a.csv"), written(tmp_path, table, "c.csv")], UTC)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.csv cannot be read"):
        read_exports([tmp_path / "none.csv"], UTC)
    (tmp_path / "x.csv").write_bytes(b"Date,\xff\xfe\n")
    with pytest.raises(ConfigError, match="is no text in UTF-8"):
        read_exports([tmp_path / "x.csv"], UTC)
    (tmp_path / "x.gz").write_bytes(b"\x1f\x8bnothing")
    with pytest.raises(ConfigError, match=r"x.gz cannot be read"):
        read_exports([tmp_path / "x.gz"], UTC)


def test_a_kind_that_is_not_known_here_is_kept(tmp_path: Path) -> None:
    text = changed("openai_usage.json", '"input_audio_tokens": 0,', '"input_audio_tokens": 0, "input_smell_tokens": 7,')
    (export,) = read_exports([written(tmp_path, text)], UTC)
    assert counts(export, "gpt-4o-mini-2024-07-18")["input_smell_tokens"] == 7
    assert all(isinstance(line, Line) for line in export.lines)
