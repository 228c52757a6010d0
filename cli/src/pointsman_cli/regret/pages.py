"""How regrets are shown."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pointsman_cli.regret.figures import Compared, Regrets, Side

_COLUMNS = ("task", "chosen", "shadow", "pairs", "$ per 1k", "seconds", "quality", "scored", "regret $", "regret")


def page(regrets: Regrets) -> RenderableType:
    told = ", ".join(f"{number} {outcome}" for outcome, number in sorted(regrets.ends.items()))
    ends = Text(f"drawn: {told or 'none'}; ${regrets.spent_usd:.6f} spent on shadows")
    if not regrets.compared:
        return Group(Text("no request has been answered twice; tasks.yaml says of which (shadow:)"), ends)
    table = Table(box=None, pad_edge=False)
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name in _COLUMNS[:3] else "right", no_wrap=True)
    for compared in regrets.compared:
        table.add_row(*_row(compared))
    return Group(table, ends)


def _row(one: Compared) -> tuple[str, ...]:
    chosen, shadow = one.of_chosen, one.of_shadow
    return (
        one.task,
        one.chosen,
        one.shadow,
        str(one.pairs),
        f"{chosen.usd * 1000:.4f} : {shadow.usd * 1000:.4f}",
        f"{chosen.seconds:.2f} : {shadow.seconds:.2f}",
        f"{_quality(chosen)} : {_quality(shadow)}",
        str(one.scored),
        f"{one.regret_usd:.6f}",
        f"{one.regret_quality / one.scored:.2f}" if one.scored else "-",
    )


def _quality(side: Side) -> str:
    return "-" if side.quality is None else f"{side.quality:.2f}"
