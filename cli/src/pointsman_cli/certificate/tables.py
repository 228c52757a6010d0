"""Shows a certificate and the checks of a certificate: on the terminal, as Markdown for a pull request, and as JSON."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from pointsman_scoring.paired_limits import Standing
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pointsman_cli.certificate.checks import Check, Outcome, overall
from pointsman_cli.certificate.statement import Certificate, Statement, TaskVerdict
from pointsman_cli.eval.report import EvaluatedPath
from pointsman_cli.options import plain_table

MARKER = "<!-- pointsman certificate -->"
"""The first line of the Markdown, by which a CI job finds and replaces its earlier comment on a pull request."""

NO_VERDICT = "no verdict"

_ESCAPES = {ord(character): f"&#{ord(character)};" for character in "&\\`*_{}[]<>|!~:"} | {
    ord(character): f"&#{ord(character)};&#8203;" for character in "@#"
}
"""Escapes for the characters that mean something in Markdown or HTML, for `str.translate`.

GitHub makes links of @NAME and #NUMBER even if the character is escaped, but not with a zero-width space after it.
"""

_STATES = {Standing.CLOSE: "good enough", Standing.WORSE: "worse", Standing.OPEN: "open"}
_STYLES = {Outcome.OK: "", Outcome.NOT_CHECKED: "dim", Outcome.WEAKENED: "yellow", Outcome.INVALID: "red"}


def verdict_lines(statement: Statement) -> RenderableType:
    """Returns, for the terminal, the certificate's verdict on each task and a table that compares the task's paths."""
    lines: list[RenderableType] = []
    for verdict, task in zip(statement.verdicts, statement.report.tasks, strict=True):
        paths = {path.path: path for path in task.paths}
        lines += [Text(), Text(headline(verdict, task.rows, statement.power), style="bold")]
        if verdict.standings:
            lines.append(_standings(verdict, paths))
        lines += [Text(f"  {path} {reason}") for path, reason in verdict.left_out.items()]
        if verdict.is_decided and verdict.path != verdict.recommended:
            lines.append(Text(f"  advise recommends {verdict.recommended or 'none'}: it minds smaller differences"))
    return Group(*lines)


def headline(verdict: TaskVerdict, rows: int, power: float) -> str:
    if verdict.is_decided:
        return f"{verdict.task}: {verdict.verdict}" + (f" ({verdict.path})" if verdict.path else "")
    return (
        f"{verdict.task}: {NO_VERDICT} from {rows:,} rows; about {verdict.rows_needed:,} in all decide it with a "
        f"probability of {power:.0%}, if a difference of {verdict.margin:g} matters"
    )


def _standings(verdict: TaskVerdict, paths: dict[str, EvaluatedPath]) -> Table:
    table = plain_table("path", right=("score", "$ per 1,000", "behind", "by", "from to"))
    table.add_column("", no_wrap=True)
    for each in verdict.standings:
        path, behind = paths[each.path], each.behind
        table.add_row(
            each.path,
            f"{path.mean:.3f}",
            f"{path.cost:.4f}",
            each.against or ("the required score" if behind else "-"),
            f"{behind.mean:+.3f}" if behind else "-",
            f"{behind.low:+.2f} {behind.high:+.2f}" if behind else "-",
            _STATES[each.standing],
        )
    return table


def check_lines(checks: Sequence[Check]) -> Table:
    table = plain_table("check", "result", "")
    for check in checks:
        table.add_row(check.subject, check.outcome.value, Text(check.detail), style=_STYLES[check.outcome])
    return table


def to_markdown(name: str, certificate: Certificate, checks: Sequence[Check]) -> str:
    """Returns the certificate's verdicts and the checks as Markdown, the check with the worst outcome first.

    `name` is the certificate's file name.
    """
    return "\n".join(_markdown_lines(name, certificate.statement, checks)) + "\n"


def _markdown_lines(name: str, statement: Statement, checks: Sequence[Check]) -> Iterator[str]:
    yield MARKER
    yield f"### {_cell(name)}: {overall(checks)}"
    yield ""
    yield "| task | verdict | path | score | $ per 1,000 |"
    yield "|---|---|---|---|---|"
    for verdict, task in zip(statement.verdicts, statement.report.tasks, strict=True):
        path = next((each for each in task.paths if each.path == verdict.path), None)
        needed = f"{NO_VERDICT}: about {verdict.rows_needed:,} rows are needed, of {task.rows:,}"
        score = f"{path.score.mean:.3f} ({path.score.low:.2f} to {path.score.high:.2f})" if path and path.score else ""
        cells = (verdict.task, verdict.verdict or needed, verdict.path, score, f"{path.cost:.4f}" if path else "")
        yield f"| {' | '.join(map(_cell, cells))} |"
    yield ""
    yield "| check | result | |"
    yield "|---|---|---|"
    for check in sorted(checks, key=lambda check: -list(Outcome).index(check.outcome)):
        shown = check.outcome.value
        shown = f"**{shown}**" if check.outcome in (Outcome.WEAKENED, Outcome.INVALID) else shown
        yield f"| {_cell(check.subject)} | {shown} | {_cell(check.detail)} |"


def _cell(text: str) -> str:
    """Escapes a text for a cell of a Markdown table, since names may come from a stranger's pull request."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return printable.translate(_ESCAPES).replace("www.", "www&#46;")


def checks_as_json(checks: Sequence[Check], statement: Statement) -> dict[str, Any]:
    """Returns what `--verify --json` prints: `result` ("valid", "weakened" or "invalid"), `checks` and `verdicts`."""
    return {
        "result": overall(checks),
        "checks": [asdict(check) | {"outcome": check.outcome.value} for check in checks],
        "verdicts": verdicts_as_json(statement),
    }


def verdicts_as_json(statement: Statement) -> list[dict[str, Any]]:
    return [
        {"task": each.task, "verdict": each.verdict, "path": each.path, "rows_needed": each.rows_needed}
        for each in statement.verdicts
    ]
