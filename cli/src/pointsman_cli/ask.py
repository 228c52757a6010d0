"""`pointsman ask`, `route` and `feedback`: send a question, show how it would be routed, rate an answer."""

import sys
import time
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pointsman_cli.errors import CommandError, UsageError, run_interruptibly
from pointsman_cli.gateway_http import (
    AnswerEnd,
    ConsideredPath,
    Decision,
    Event,
    Question,
    TextChunk,
    ask_http,
    request_route,
    send_feedback,
    to_decision,
)
from pointsman_cli.grpc_clients import ask_grpc
from pointsman_cli.options import (
    DEFAULT_DATA_DIR,
    KEY_VARIABLE,
    DataDirOption,
    KeyEnvOption,
    UrlOption,
    api_key,
    gateway_grpc_address,
    gateway_url,
    print_json,
)

_FORCED = "forced"
"""The reason of a decision if the request named its path; no task was then chosen."""
_BAR = 20  # characters of the bar for a probability of 1

TextArgument = Annotated[str, typer.Argument(metavar="TEXT", help="The question; - reads it from standard input.")]
ModelOption = Annotated[
    str, typer.Option(help='"auto", "path:NAME", an adapter alias ("triage@prod") or the name of a model.')
]


def receipt_line(decision: Decision, end: AnswerEnd, first_token: float | None, total: float) -> str:
    """Formats the gateway's routing decision and the tokens and cost of its answer as one line for the terminal.

    `first_token` and `total` are the seconds from the request to the first token and to the end, measured by the
    client. If `first_token` is None, the line leaves it out.
    """
    answered_by = ""
    if end.escalated_from:
        answered_by = f" (after {end.escalated_from}, whose answer was rejected)"
    elif end.path and end.path != decision.path:
        answered_by = f" (answered by {end.path})"
    parts = [
        *([] if decision.reason == _FORCED else [f"{decision.task} {decision.confidence:.2f}"]),
        f"path {decision.path}{answered_by}",
        decision.kind,
        decision.reason,
        *([f"first token {first_token:.2f} s"] if first_token is not None else []),
        f"total {total:.2f} s",
        _tokens(end),
        *_limit(end),
        "cost unknown" if end.cost_usd is None else dollars(end.cost_usd),
        *([f"sources: {', '.join(dict.fromkeys(end.sources))}"] if end.sources else []),
        f"id {decision.id}",
    ]
    return " · ".join(parts)


def dollars(amount: float) -> str:
    """Formats an amount of dollars with up to nine decimals: an answer may cost millionths of a dollar."""
    return f"${amount:.9f}".rstrip("0").rstrip(".") if amount else "$0"


def show_decision(console: Console, decision: Decision) -> None:
    facts = Table.grid(padding=(0, 2))
    rows = {
        "task": f"{decision.task} ({decision.confidence:.3f})",
        "path": f"{decision.path} ({decision.kind})",
        "reason": decision.reason,
        "stage": decision.stage,
        "margin": "" if decision.margin is None else f"{decision.margin:.3f}",
        "in_distribution_score": ""
        if decision.in_distribution_score is None
        else f"{decision.in_distribution_score:.3f}",
        "notes": "; ".join(decision.notes),
        "expected cost": "" if decision.expected_cost_usd is None else dollars(decision.expected_cost_usd),
        "revision": decision.revision,
        "id": decision.id,
    }
    for name, value in rows.items():
        facts.add_row(Text(name, style="dim"), Text(value or "-"))
    for task, probability in decision.probabilities.items():
        facts.add_row(Text(task, style="dim"), Text(f"{probability:.3f} {'█' * round(probability * _BAR)}"))
    for considered in decision.considered:
        facts.add_row(Text(considered.outcome, style="dim"), Text(_considered(considered, decision.costs_usd)))
    console.print(facts)


def _considered(considered: ConsideredPath, costs_usd: Mapping[str, float | None]) -> str:
    usd = costs_usd.get(considered.path)
    path = considered.path if usd is None else f"{considered.path} ({dollars(usd)})"
    return f"{path}: {considered.reason}" if considered.reason else path


def _tokens(end: AnswerEnd) -> str:
    if end.prompt_tokens is None or end.completion_tokens is None:
        return "tokens unknown"
    return f"{end.prompt_tokens} + {end.completion_tokens} tokens"


def _limit(end: AnswerEnd) -> list[str]:
    """Returns a text for the terminal if the default token limit of its path's kind cut the answer off, else [].

    The answer counts as cut off if it has at least as many tokens as the limit, since gRPC reports no finish reason.
    """
    limit = end.default_max_tokens
    if limit is None or (end.completion_tokens or 0) < limit:
        return []
    return [f"cut off at {limit} tokens, the default: max_tokens in the path sets another limit"]


def ask(
    text: TextArgument,
    model: ModelOption = "auto",
    stream: Annotated[
        bool, typer.Option("--stream/--no-stream", help="Print the answer as it is generated, or at once.")
    ] = True,
    grpc: Annotated[bool, typer.Option("--grpc", help="Use gRPC instead of HTTP; --url is HOST:PORT then.")] = False,
    url: UrlOption = "",
    key_env: KeyEnvOption = KEY_VARIABLE,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Send a question to the gateway; print the answer, then one line with the decision, times, tokens and cost."""
    question = Question(_read_question(text), model, stream)
    key = api_key(key_env)
    if grpc:
        events = ask_grpc(gateway_grpc_address(url, data_dir), question, key)
    else:
        events = ask_http(gateway_url(url, data_dir), question, key)
    run_interruptibly(_print_answer(events, stream))


def route(
    text: TextArgument,
    model: ModelOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the gateway's JSON.")] = False,
    prompt: Annotated[
        bool, typer.Option("--prompt", help="Also build the prompt (may search the retriever) and print it.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Also print what the classifier read of the text: the user's own words.")
    ] = False,
    url: UrlOption = "",
    key_env: KeyEnvOption = KEY_VARIABLE,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Show how the gateway would route a request now, and why. Generates nothing and costs nothing."""
    question = Question(_read_question(text), model)
    body = run_interruptibly(
        request_route(gateway_url(url, data_dir), question, api_key(key_env), include_prompt=prompt)
    )
    if as_json:
        print_json(body)
        return
    console = Console()
    try:
        show_decision(console, to_decision(body))
    except (KeyError, TypeError) as error:
        raise CommandError(
            f"the gateway's decision is not as expected: {error!r}; --json shows it; is it of another version?"
        ) from error
    if explain:
        console.print("\n[dim]read by the classifier[/dim]")
        console.print(body.get("user_words") or "all of it", markup=False, highlight=False)
    for message in body.get("prompt", ()):
        console.print(f"\n[dim]{message['role']}[/dim]")
        console.print(message["content"], markup=False, highlight=False)


def _read_question(text: str) -> str:
    if text == "-":
        text = sys.stdin.read()
    must_be_utf8(text, "the text")
    if not text.strip():
        raise UsageError("the question is empty")
    return text


def must_be_utf8(text: str, what: str) -> None:
    """Raises UsageError if the text cannot be encoded as UTF-8; `what` names the text in the message.

    Such a text has lone surrogates: Python puts them in place of input bytes that are not UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{what} is not UTF-8") from error


async def _print_answer(events: AsyncIterator[Event], stream: bool) -> None:
    decision, end, first_token = None, None, None
    chunks = []
    began = time.monotonic()
    try:
        async for event in events:
            match event:
                case Decision():
                    decision = event
                case TextChunk():
                    first_token = time.monotonic() - began if first_token is None else first_token
                    chunks.append(event.content)
                    if stream:
                        print(event.content, end="", flush=True)
                case AnswerEnd():
                    end = event
    finally:  # so that an error message starts on its own line
        if chunks:
            print("" if stream else "".join(chunks), flush=True)
    if decision is None or end is None:
        raise CommandError("the answer was cut off before its end")
    line = receipt_line(decision, end, first_token if stream else None, time.monotonic() - began)
    Console().print(line, style="dim", markup=False, highlight=False, soft_wrap=True)


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
    given: dict[str, Any] = {"right_task": right_task, "right_answer": right_answer, "correction": correction}
    given = {name: text for name, text in given.items() if text} | ({} if rating is None else {"rating": rating})
    if not given:
        raise UsageError("there is no feedback; give --rating, --right-task, --right-answer or --correction")
    for text in (decision_id, right_task, right_answer, correction):
        must_be_utf8(text, "the feedback")
    body = {"decision_id": decision_id, **given}
    response = run_interruptibly(send_feedback(gateway_url(url, data_dir), body, api_key(key_env)))
    print(_outcome(response))


def _outcome(response: dict[str, Any]) -> str:
    if response["known_already"]:
        return "already known: the same feedback was sent before"
    if response["stored"] == "wal":
        return "stored on disk; it moves to the request log when Redis is back"
    return "stored in the request log"
