"""`pointsman ask` and `pointsman route`."""

import json
import sys
import time
from collections.abc import AsyncIterator
from typing import Annotated

import typer
from rich.console import Console

from pointsman_cli.ask import grpc_door, http_door
from pointsman_cli.ask.answer import Decision, Ending, Event, Question, Text
from pointsman_cli.ask.screen import receipt_line, show_decision
from pointsman_cli.errors import CommandError, Misused
from pointsman_cli.interrupts import run_interruptibly
from pointsman_cli.options import (
    DEFAULT_DATA_DIR,
    KEY_VARIABLE,
    DataDirOption,
    KeyEnvOption,
    UrlOption,
    api_key,
    gateway_grpc_address,
    gateway_url,
)

TextArgument = Annotated[str, typer.Argument(metavar="TEXT", help="The question; - reads it from standard input.")]
ModelOption = Annotated[
    str, typer.Option(help='"auto", "path:NAME", an adapter alias ("triage@prod") or the name of a model.')
]


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
    question = Question(_read(text), model, stream)
    key = api_key(key_env)
    if grpc:
        events = grpc_door.ask(gateway_grpc_address(url, data_dir), question, key)
    else:
        events = http_door.ask(gateway_url(url, data_dir), question, key)
    run_interruptibly(_show(events, stream))


def route(
    text: TextArgument,
    model: ModelOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the gateway's JSON.")] = False,
    prompt: Annotated[
        bool, typer.Option("--prompt", help="Also build the prompt (may search the retriever) and print it.")
    ] = False,
    url: UrlOption = "",
    key_env: KeyEnvOption = KEY_VARIABLE,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Show how the gateway would route a request now, and why. Generates nothing and costs nothing."""
    question = Question(_read(text), model)
    body = run_interruptibly(
        http_door.route(gateway_url(url, data_dir), question, api_key(key_env), include_prompt=prompt)
    )
    if as_json:
        print(json.dumps(body, indent=2, ensure_ascii=False))
        return
    console = Console()
    try:
        show_decision(console, http_door.to_decision(body))
    except (KeyError, TypeError) as error:
        raise CommandError(f"the gateway's decision is not as expected: {error!r}; --json shows it") from error
    for message in body.get("prompt", ()):
        console.print(f"\n[dim]{message['role']}[/dim]")
        console.print(message["content"], markup=False, highlight=False)


def _read(text: str) -> str:
    if text == "-":
        text = sys.stdin.read()
    must_be_utf8(text, "the text")
    if not text.strip():
        raise Misused("the question is empty")
    return text


def must_be_utf8(text: str, what: str) -> None:
    """Bytes that are none come to us as halves of surrogate pairs. Raises Misused."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Misused(f"{what} is not UTF-8") from error


async def _show(events: AsyncIterator[Event], stream: bool) -> None:
    decision, ending, first = None, None, None
    pieces = []
    began = time.monotonic()
    try:
        async for event in events:
            match event:
                case Decision():
                    decision = event
                case Text():
                    first = time.monotonic() - began if first is None else first
                    pieces.append(event.content)
                    if stream:
                        print(event.content, end="", flush=True)
                case Ending():
                    ending = event
    finally:  # an error's line begins a line of its own
        if pieces:
            print("" if stream else "".join(pieces), flush=True)
    if decision is None or ending is None:
        raise CommandError("the answer broke off before its end")
    line = receipt_line(decision, ending, first if stream else None, time.monotonic() - began)
    Console().print(line, style="dim", markup=False, highlight=False, soft_wrap=True)
