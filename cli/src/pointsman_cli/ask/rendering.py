"""Formats decisions and receipts for the terminal."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pointsman_cli.gateway.answers import AnswerEnd, ConsideredPath, Decision

_BAR = 20  # characters of the bar for a probability of 1


def receipt_line(decision: Decision, end: AnswerEnd, first_token: float | None, total: float) -> str:
    """Formats a decision and its answer as one line.

    `first_token` and `total` are seconds since the request, as the client saw them; `first_token` is None if the answer
    was not streamed.
    """
    answered_by = ""
    if end.escalated_from:
        answered_by = f" (after {end.escalated_from}, whose answer was rejected)"
    elif end.path and end.path != decision.path:
        answered_by = f" (answered by {end.path})"
    parts = [
        f"{decision.task} {decision.confidence:.2f}",
        f"path {decision.path}{answered_by}",
        decision.kind,
        decision.reason,
        *([f"first token {first_token:.2f} s"] if first_token is not None else []),
        f"total {total:.2f} s",
        _tokens(end),
        "cost unknown" if end.cost_usd is None else dollars(end.cost_usd),
        *([f"sources: {', '.join(dict.fromkeys(end.sources))}"] if end.sources else []),
        f"id {decision.id}",
    ]
    return " · ".join(parts)


def dollars(amount: float) -> str:
    """Formats without rounding to zero: an answer costs millionths of a dollar."""
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


def _considered(considered: ConsideredPath) -> str:
    return f"{considered.path}: {considered.reason}" if considered.reason else considered.path


def _tokens(end: AnswerEnd) -> str:
    if end.prompt_tokens is None or end.completion_tokens is None:
        return "tokens unknown"
    return f"{end.prompt_tokens} + {end.completion_tokens} tokens"
