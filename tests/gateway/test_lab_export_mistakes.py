"""Exports that are cut off, ambiguous or out of range are refused with what is wrong; unusual ones are read."""

from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from pointsman_gateway.config.field_types import ConfigError
from pointsman_lab.reconcile.days import Days
from pointsman_lab.reconcile.exports.lines import SECONDS_PER_DAY
from pointsman_lab.reconcile.exports.registry import read_exports

from tests.gateway.test_lab_exports import FILES, changed, counts, dollars, written

USAGE_CSV = "start_time,end_time,model,input_tokens,output_tokens,num_model_requests\n"
ROW = "1793577600,1793664000,gpt-9,{},10,3\n"
AZURE = "Date,MeterCategory,MeterName,Quantity,UnitOfMeasure,CostInUsd\n"
METER = "{},Azure OpenAI,gpt 9 Inp glbl Tokens,1,1K,1\n"
DAY = datetime(2026, 11, 2, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("\ufeff\r\n \n", "is empty"),
        (USAGE_CSV + ROW.format('"1,5"'), "input_tokens is '1,5', and should be a number"),
        (USAGE_CSV + ROW.format("1_5"), "input_tokens is '1_5', and should be a number"),
        (USAGE_CSV + ROW.format("3/4"), "input_tokens is '3/4', and should be a number"),
        (USAGE_CSV + ROW.format("1e99999999"), "input_tokens is '1e99999999', and should be a number"),
        (USAGE_CSV + ROW.format("9" * 5000), "and should be a number"),
        (USAGE_CSV + ROW.format("1") + "1793577600,1793664000,gpt-9,10", "line 3 has 4 values for 6 columns"),
        (USAGE_CSV.replace(",", ";") + ROW.format("1").replace(",", ";"), "is separated by semicolons"),
        (USAGE_CSV + ROW.format("1").replace("600,", "600000,").replace("000,gpt", "000000,gpt"), "Unix seconds"),
        (changed("openai_costs.json", '"value": 0.06', '"value": "1e99999999"'), "amount is '1e99999999', and should"),
        (changed("anthropic_usage.json", "2025-08-02T00:00:00Z", "9999-12-31T23:59:59-05:00"), "after the year 3000"),
        (AZURE + METER.format("0001-01-01"), "is before the year 1970"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_exports([written(tmp_path, content, "export.csv")], UTC)
    assert message in str(error.value)
    assert "export.csv" in str(error.value)


def test_blanks_before_json_and_thousands_separators_are_read(tmp_path: Path) -> None:
    text = "\ufeff\r\n  " + changed("openai_usage.json", '"input_tokens": 1000', '"input_tokens": "1,000"')
    (export,) = read_exports([written(tmp_path, text)], UTC)
    assert counts(export, "gpt-4o-mini-2024-07-18")["prompt"] == 200
    rows = (USAGE_CSV + ROW.format('"1,234,567"')).replace("\n", "\r\n")
    (export,) = read_exports([written(tmp_path, "\ufeff" + rows, "e.csv")], UTC)
    assert counts(export, "gpt-9")["prompt"] == 1_234_567


def test_reports_of_different_endpoints_may_have_the_same_days(tmp_path: Path) -> None:
    text = (FILES / "openai_usage.json").read_text()
    embeddings = text.replace("usage.completions", "usage.embeddings").replace("gpt-4o-mini-2024-07-18", "e-1")
    files = [written(tmp_path, text, "a.json"), written(tmp_path, embeddings, "b.json")]
    (export,) = read_exports(files, UTC)
    assert counts(export, "e-1")["prompt"] == counts(export, "gpt-4o-mini-2024-07-18")["prompt"] == 200
    assert len(Days(export, DAY)) == 2
    again = embeddings.replace("e-1", "e-2")
    with pytest.raises(ConfigError, match=r"c.json has days that another file has too"):
        read_exports([*files, written(tmp_path, again, "c.json")], UTC)


@pytest.mark.parametrize(("month", "hours"), [("03/{:02}/2026", 23), ("11/{:02}/2026", 25)], ids=["spring", "autumn"])
def test_days_on_which_clocks_change_have_their_hours(tmp_path: Path, month: str, hours: int) -> None:
    changes = 8 if hours == 23 else 1
    rows = "".join(METER.format(month.format(day)) for day in (changes, changes + 1))
    (export,) = read_exports([written(tmp_path, AZURE + rows, "a.csv")], ZoneInfo("America/Los_Angeles"))
    first, second = export.lines
    assert first.end == second.begin
    assert (first.end - first.begin, second.end - second.begin) == (hours * 3600, SECONDS_PER_DAY)


def test_a_refund_in_a_cost_report_is_read(tmp_path: Path) -> None:
    text = changed("openai_costs.json", '"value": 0.06', '"value": -0.06')
    (export,) = read_exports([written(tmp_path, text)], UTC)
    assert dollars(export, "gpt-4o-mini-2024-07-18")["prompt"] == -0.06
