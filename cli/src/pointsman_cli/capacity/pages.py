"""How a plan is shown."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pointsman_cli.capacity.plan import Plan
from pointsman_cli.capacity.truth import Beside


def plan_page(plan: Plan) -> RenderableType:
    table = _table(("part", "number", "$ a month", "why"), right=("number", "$ a month"))
    for part in plan.parts:
        table.add_row(part.name, str(part.number), f"{part.dollars_per_month:,.2f}", part.why)
    engines = plan.engines
    told = Text(
        f"engines: {engines.busy:.0%} busy, {engines.tokens_per_second:,.0f} tokens/s, first token p50 "
        f"{engines.first_token_p50:.2f} s, p95 {engines.first_token_p95:.2f} s, "
        f"whole answer p95 {engines.total_p95:.2f} s, adapters resident {engines.hit_ratio:.0%} of the time"
    )
    money = Text(f"${plan.dollars_per_month:,.2f} a month, ${plan.dollars_per_1000:.4f} for 1,000 requests")
    return Group(table, Text(), told, money, *(Text(f"* {note}") for note in plan.notes))


def truth_page(found: Sequence[Beside]) -> RenderableType:
    table = _table(("run", "figure", "measured", "simulated", "off", ""), right=("measured", "simulated", "off"))
    for one in found:
        what = "fitted" if one.fitted else "" if one.agrees else "too far off"
        table.add_row(one.run, one.figure, f"{one.measured:.2f}", f"{one.simulated:.2f}", f"{one.off:+.0%}", what)
    return table


def _table(names: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name, justify="right" if name in right else "left")
    return table
