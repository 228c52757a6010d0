"""Tables are not wrapped in a pipe, and no cell is broken into pieces in a narrow terminal."""

import pytest
from pointsman_cli.adapters.tables import print_renderable
from pointsman_cli.tables import FittingTable, decimal_text, print_table, table_lines
from rich.cells import cell_len
from rich.console import Console, Group
from rich.text import Text

COLUMNS = ("examples", "of", "predicted", "most certain mistakes", "where")
TEXT = "why was the payment that I made with my card at the shop yesterday declined by you?"
ROWS = [
    ("3", "declined_card_payment", "pending_card_payment", TEXT, "tasks/declined_card_payment.jsonl:12"),
    ("", "", "", "declined", "tasks/declined_card_payment.jsonl:40"),
    ("12", "top_up_失敗", "x", "[bold]", "a.jsonl:1"),
]


def test_in_80_columns_what_does_not_fit_follows_below_its_row() -> None:
    assert list(table_lines(COLUMNS, ROWS, 80)) == [
        "examples  of                     predicted",
        "3         declined_card_payment  pending_card_payment",
        "    most certain mistakes: why was the payment that I made with my card at the",
        "        shop yesterday declined by you?",
        "    where: tasks/declined_card_payment.jsonl:12",
        "    most certain mistakes: declined",
        "    where: tasks/declined_card_payment.jsonl:40",
        "12        top_up_失敗            x",
        "    most certain mistakes: [bold]",
        "    where: a.jsonl:1",
    ]


@pytest.mark.parametrize("width", [1, 20, 60, 80, 100])
def test_no_name_is_broken_in_any_width(width: int) -> None:
    text = "\n".join(table_lines(COLUMNS, ROWS, width))
    for name in ("declined_card_payment", "pending_card_payment", "tasks/declined_card_payment.jsonl:12"):
        assert name in text


def test_in_a_pipe_each_row_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    print_table(COLUMNS, ROWS, right=("examples",))

    header, first, second, third = capfd.readouterr().out.splitlines()
    assert header.split() == ["examples", "of", "predicted", "most", "certain", "mistakes", "where"]
    assert first.split("  ")[-1].strip() == "tasks/declined_card_payment.jsonl:12"
    assert f"       3  declined_card_payment  pending_card_payment  {TEXT}" in first
    assert second.strip().startswith("declined ")
    assert "[bold]" in third


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_table_among_other_things_is_whole_in_a_pipe_and_fits_a_terminal(
    capfd: pytest.CaptureFixture[str], width: int
) -> None:
    things = Group(Text("before"), FittingTable(COLUMNS, ROWS, right=("examples",)), Text("after"))
    print_renderable(things)
    lines = capfd.readouterr().out.splitlines()
    assert [len(lines), lines[0], lines[-1]] == [6, "before", "after"]
    assert lines[2].endswith("tasks/declined_card_payment.jsonl:12")

    Console(force_terminal=True, width=width, color_system=None).print(things, crop=False)
    shown = capfd.readouterr().out
    for name in ("declined_card_payment", "tasks/declined_card_payment.jsonl:40", "top_up_失敗"):
        assert name in shown
    assert max(cell_len(line) for line in shown.splitlines()) <= max(width, 48)  # a name is not broken


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.00001, "0.00001"), (1_500_000, "1500000"), (2.5, "2.5"), (10, "10"), (0, "0"), (1e9, "1000000000")],
)
def test_no_amount_has_an_exponent(value: float, text: str) -> None:
    assert decimal_text(value) == text
