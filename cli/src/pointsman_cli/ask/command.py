"""`pointsman ask` and `pointsman route`."""

import json
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pointsman_cli import run_file
from pointsman_cli.ask import grpc_door, http_door
from pointsman_cli.ask.answer import Decision, Ending, Event, Question, Text
from pointsman_cli.ask.screen import receipt_line, show_decision
from pointsman_cli.errors import CommandError, Misused
from pointsman_cli.home import Home
from pointsman_cli.interrupts import run_interruptibly
from pointsman_cli.options import HomeOption
from pointsman_cli.urls import web_url

DEFAULT_URL = "http://127.0.0.1:8080"
DEFAULT_GRPC = "127.0.0.1:8081"

TextArgument = Annotated[str, typer.Argument(metavar="TEXT", help="What to ask; - reads it from standard input.")]
ModelOption = Annotated[
    str, typer.Option(help='"auto", "path:NAME", an adapter\'s alias ("triage@prod"), or a base model\'s name.')
]
UrlOption = Annotated[
    str, typer.Option(help="The gateway; else the one that `pointsman up` runs, else the usual port.")
]


def ask(
    text: TextArgument,
    model: ModelOption = "auto",
    stream: Annotated[bool, typer.Option("--stream/--no-stream", help="Show the answer as it comes, or whole.")] = True,
    grpc: Annotated[
        bool, typer.Option("--grpc", help="Ask over gRPC (Gateway.GenerateStream) instead of HTTP.")
    ] = False,
    url: UrlOption = "",
    home: HomeOption = Path(".pointsman"),
) -> None:
    """Ask the gateway; show the answer, then one line on what was decided, how long it took and what it cost."""
    question = Question(_read(text), model, stream)
    at = where(url, home, over_grpc=grpc)
    events = grpc_door.ask(at, question) if grpc else http_door.ask(at, question)
    run_interruptibly(_show(events, stream))


def route(
    text: TextArgument,
    model: ModelOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the decision as the gateway sent it.")] = False,
    prompt: Annotated[
        bool, typer.Option("--prompt", help="Also build the prompt (it may retrieve) and show it.")
    ] = False,
    url: UrlOption = "",
    home: HomeOption = Path(".pointsman"),
) -> None:
    """Show what the gateway would do with this request now, and why. Nothing is generated, nothing is charged."""
    question = Question(_read(text), model)
    body = run_interruptibly(http_door.route(where(url, home, over_grpc=False), question, include_prompt=prompt))
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
        raise Misused("there is nothing to ask: the text is empty")
    return text


def must_be_utf8(text: str, what: str) -> None:
    """Bytes that are none come to us as halves of surrogate pairs. Raises Misused."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Misused(f"{what} is not UTF-8") from error


def where(named: str, home: Path, *, over_grpc: bool) -> str:
    """The gateway that is named, else the one that runs, else where one usually is."""
    if named:
        return named.removeprefix("http://").rstrip("/") if over_grpc else web_url(named)
    running = run_file.read(Home.at(home).run_file)
    if over_grpc:
        return running.grpc if running else DEFAULT_GRPC
    return running.http if running else DEFAULT_URL


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
