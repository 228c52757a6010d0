"""Exports with amounts below zero, and exports that tell only batches apart, are compared with receipts."""

import argparse
from fractions import Fraction
from typing import Any

import pytest
from pointsman_gateway.config.field_types import ConfigError
from pointsman_lab.reconcile.arguments import add_arguments, read_order
from pointsman_lab.reconcile.charges import Charge
from pointsman_lab.reconcile.comparison import Comparison, compare
from pointsman_lab.reconcile.days import Days
from pointsman_lab.reconcile.exports.lines import SECONDS_PER_DAY, Export, Line
from pointsman_lab.reconcile.join import Names
from pointsman_lab.reconcile.report import Compared, reconcile_report

DAY = 1_793_577_600.0


def compared(lines: list[Line], receipts: list[Charge]) -> Comparison:
    export = Export("e", ("openai",), lines, ("prompt", "completion"), covered=[(DAY, DAY + SECONDS_PER_DAY)])
    return compare(export, receipts, Days(export, DAY + 9 * SECONDS_PER_DAY), Names())


def line(kind: str, **amount: Any) -> Line:
    return Line(DAY, DAY + SECONDS_PER_DAY, "gpt-9", kind, **amount)


@pytest.mark.parametrize("amounts", [(-5,), (-5, 5), (-9, 2)])
def test_amounts_below_zero_are_differences_too(amounts: tuple[int, ...]) -> None:
    lines = [line(kind, picodollars=usd * 10**12) for kind, usd in zip(("prompt", "completion"), amounts, strict=False)]
    comparison = compared(lines, [])
    assert comparison.share == 1
    assert "differ by 100 %" in reconcile_report([Compared(comparison, (), ())], (), Fraction(1, 100)).failure


def test_an_export_that_tells_only_batches_apart_has_all_other_tiers_together() -> None:
    lines = [line("prompt", count=10), line("prompt", count=7, tier="batch")]
    receipt = Charge(DAY, DAY + 5, "", "gpt-9", "flex", {"prompt": 10}, {})
    comparison = compared(lines, [receipt])
    assert [(one.group.tier, one.exported, one.received) for one in comparison.differences] == [("batch", 7, 0)]
    assert comparison.share == Fraction(7, 17)


def test_an_amount_below_zero_has_its_sign_before_the_dollars() -> None:
    report = reconcile_report(
        [Compared(compared([line("prompt", picodollars=-5 * 10**12)], []), (), ())], (), Fraction()
    )
    assert "-$5.0000  $0.0000   -$5.0000" in report.as_text()


@pytest.mark.parametrize("tolerance", ["-1", "101", "nan", "inf", "few"])
def test_a_tolerance_that_is_no_share_is_refused(tolerance: str) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with pytest.raises(ConfigError, match="should be percent from 0 to 100"):
        read_order(parser.parse_args([f"--tolerance={tolerance}"]))
