"""`pointsman feedback`: what you say of an answer, to the gateway."""

from typing import Annotated, Any

import typer

from pointsman_cli.ask import http_door
from pointsman_cli.ask.command import must_be_utf8
from pointsman_cli.errors import Misused
from pointsman_cli.interrupts import run_interruptibly
from pointsman_cli.options import (
    DEFAULT_DATA_DIR,
    KEY_VARIABLE,
    DataDirOption,
    KeyEnvOption,
    UrlOption,
    api_key,
    gateway_url,
)


def feedback(
    decision_id: Annotated[str, typer.Argument(metavar="DECISION_ID", help="The id that `ask` and `route` print.")],
    rating: Annotated[float | None, typer.Option(min=0, max=1, help="0 (bad) to 1 (good).")] = None,
    right_task: Annotated[str, typer.Option(metavar="TASK", help='The correct task; "unknown" if no task fits.')] = "",
    right_answer: Annotated[str, typer.Option(metavar="TEXT", help="The correct answer.")] = "",
    correction: Annotated[str, typer.Option(metavar="TEXT", help="A description of what was wrong.")] = "",
    url: UrlOption = "",
    key_env: KeyEnvOption = KEY_VARIABLE,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Rate or correct an answer. Sending the same feedback again has no effect."""
    said: dict[str, Any] = {"right_task": right_task, "right_answer": right_answer, "correction": correction}
    said = {name: text for name, text in said.items() if text} | ({} if rating is None else {"rating": rating})
    if not said:
        raise Misused("there is no feedback; give --rating, --right-task, --right-answer or --correction")
    for text in (decision_id, right_task, right_answer, correction):
        must_be_utf8(text, "the feedback")
    at = gateway_url(url, data_dir)
    print(_told(run_interruptibly(http_door.feedback(at, {"decision_id": decision_id, **said}, api_key(key_env)))))


def _told(answer: dict[str, Any]) -> str:
    if answer["known_already"]:
        return "already known: the same feedback was sent before"
    if answer["stored"] == "spool":
        return "stored on disk; it moves to the request log when Redis is back"
    return "stored in the request log"
