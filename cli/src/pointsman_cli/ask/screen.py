"""Decisions and receipts, for reading."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pointsman_cli.ask.answer import Considered, Decision, Ending

_BAR = 20  # characters of a probability of 1


def receipt_line(decision: Decision, ending: Ending, first: float | None, total: float) -> str:
    """`first` and `total` are seconds from the question, as the client saw them; no `first`: nothing was streamed."""
    answered = ""
    if ending.escalated_from:
        answered = f" (after {ending.escalated_from}, whose answer was not accepted)"
    elif ending.path and ending.path != decision.path:
        answered = f" (answered by {ending.path})"
    parts = [
        f"{decision.task} {decision.confidence:.2f}",
        f"path {decision.path}{answered}",
        decision.kind,
        decision.reason,
        *([f"first token {first:.2f} s"] if first is not None else []),
        f"total {total:.2f} s",
        _tokens(ending),
        "cost unknown" if ending.cost_usd is None else dollars(ending.cost_usd),
        *([f"sources: {', '.join(dict.fromkeys(ending.sources))}"] if ending.sources else []),
        f"id {decision.id}",
    ]
    return " · ".join(parts)


def dollars(amount: float) -> str:
    """Never rounded to nothing: an answer costs millionths."""
    return f"${amount:.9f}".rstrip("0").rstrip(".") if amount else "$0"


def show_decision(console: Console, decision: Decision) -> None:
    facts = Table.grid(padding=(0, 2))
    rows = {
        "task": f"{decision.task} ({decision.confidence:.3f})",
        "path": f"{decision.path} ({decision.kind})",
        "reason": decision.reason,
        "stage": decision.stage,
        "margin": "" if decision.margin is None else f"{decision.margin:.3f}",
        "familiarity": "" if decision.familiarity is None else f"{decision.familiarity:.3f}",
        "notes": "; ".join(decision.notes),
        "expected": "" if decision.expected_cost_usd is None else dollars(decision.expected_cost_usd),
        "generation": decision.generation,
        "id": decision.id,
    }
    for name, value in rows.items():
        facts.add_row(Text(name, style="dim"), Text(value or "-"))
    for task, probability in decision.probabilities.items():
        facts.add_row(Text(task, style="dim"), Text(f"{probability:.3f} {'█' * round(probability * _BAR)}"))
    for considered in decision.considered:
        facts.add_row(Text(considered.outcome, style="dim"), Text(_considered(considered)))
    console.print(facts)


def _considered(considered: Considered) -> str:
    return f"{considered.path}: {considered.reason}" if considered.reason else considered.path


def _tokens(ending: Ending) -> str:
    if ending.prompt_tokens is None or ending.completion_tokens is None:
        return "tokens unknown"
    return f"{ending.prompt_tokens} + {ending.completion_tokens} tokens"
