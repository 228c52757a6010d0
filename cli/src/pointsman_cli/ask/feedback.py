"""`pointsman feedback`: what you say of an answer, to the gateway."""

from pathlib import Path
from typing import Annotated, Any

import typer

from pointsman_cli.ask import http_door
from pointsman_cli.ask.command import UrlOption, must_be_utf8, where
from pointsman_cli.errors import Misused
from pointsman_cli.interrupts import run_interruptibly
from pointsman_cli.options import HomeOption


def feedback(
    decision_id: Annotated[str, typer.Argument(metavar="DECISION_ID", help="As `ask` and `route` show it.")],
    rating: Annotated[float | None, typer.Option(min=0, max=1, help="0 (bad) to 1 (good).")] = None,
    right_task: Annotated[
        str, typer.Option(help='The task that it should have been; "unknown" where it fits none.')
    ] = "",
    right_answer: Annotated[str, typer.Option(help="What should have been answered.")] = "",
    correction: Annotated[str, typer.Option(help="What was wrong, in words.")] = "",
    url: UrlOption = "",
    home: HomeOption = Path(".pointsman"),
) -> None:
    """Say how good an answer was, or what it should have been. The same said twice counts once."""
    said: dict[str, Any] = {"right_task": right_task, "right_answer": right_answer, "correction": correction}
    said = {name: text for name, text in said.items() if text} | ({} if rating is None else {"rating": rating})
    if not said:
        raise Misused("nothing is said; give --rating, --right-task, --right-answer or --correction")
    for text in (decision_id, right_task, right_answer, correction):
        must_be_utf8(text, "what is said")
    at = where(url, home, over_grpc=False)
    print(_told(run_interruptibly(http_door.feedback(at, {"decision_id": decision_id, **said}))))


def _told(answer: dict[str, Any]) -> str:
    if answer["known_already"]:
        return "known already: the same was said before, and counts once"
    if answer["stored"] == "spool":
        return "kept on disk: it goes to the journal as soon as that can be reached"
    return "kept in the journal"
