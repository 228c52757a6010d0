"""`pointsman distill`: from what was kept of answers to an adapter that serves, or is refused."""

import json
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pointsman_cli.adapters.options import LoraServerOption
from pointsman_cli.classifier.options import JsonOption, RedisOption
from pointsman_cli.data.options import DataOption, FolderOption, TaskArgument, configuration, data_root
from pointsman_cli.distill import pages, state
from pointsman_cli.distill.asking import Gateway
from pointsman_cli.distill.machine import REFUSED_OUTCOME
from pointsman_cli.distill.plan import read_plan
from pointsman_cli.distill.state import Ledger
from pointsman_cli.distill.wiring import STEPS, Addresses, Wish, distilled
from pointsman_cli.errors import Misused
from pointsman_cli.home import Home
from pointsman_cli.interrupts import run_interruptibly
from pointsman_cli.options import HomeOption

RUNS = "distill"
"""In the home's folder."""
REFUSED_CODE = 3
"""The command's exit code where a version was refused: nothing is wrong with the command."""

Step = Enum("Step", {step: step for step in STEPS}, type=str)  # type: ignore[misc]  # typer shows the values of such


class Method(str, Enum):  # noqa: UP042  # typer shows the values of such
    LORA = "lora"
    RSLORA = "rslora"
    QLORA = "qlora"
    DPO = "dpo"


def distill(
    task: TaskArgument,
    texts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help='Ask the teacher path over these too: plain lines, or {"text": ...}.'),
    ] = None,
    method: Annotated[Method, typer.Option(help="dpo learns from pairs of answers.")] = Method.LORA,
    until: Annotated[Step | None, typer.Option(help="Stop after this step; the same command goes on.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Begin a new run, whatever became of the last.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Show how the last run stands, and do nothing.")] = False,
    as_json: JsonOption = False,
    config: FolderOption = None,
    data: DataOption = None,
    key: Annotated[str, typer.Option(envvar="POINTSMAN_KEY", help="Of a gateway that has keys on.")] = "",
    url: Annotated[str, typer.Option(help="The gateway's; else that of the running `pointsman up`.")] = "",
    redis: RedisOption = "",
    retriever: Annotated[str, typer.Option(help="Its address; else that of the running `pointsman up`.")] = "",
    lora_server: LoraServerOption = "",
    home: HomeOption = Path(".pointsman"),
) -> None:
    """Make a task's adapter anew: data, train, evaluate, canary, promote; or refuse it, and keep the reason.

    Interrupted, killed, or stopped by --until, the same command goes on where it was. Exit code 3: refused.
    """
    at = Home.at(home)
    shelf = at.folder / RUNS / task
    last = state.latest(shelf)
    if status:
        _show(last, task, as_json)
        return
    wish = Wish(task, configuration(config, at), data_root(data, at), texts, method.value, until.value if until else "")
    addresses = Addresses.of(at, url, redis, retriever, lora_server)
    plan = run_interruptibly(read_plan(wish.config, task, at))
    going_on = last is not None and not last.state.outcome and not restart
    if going_on and last is not None and last.state.method != method.value:
        raise Misused(f"run {last.state.run} learns by {last.state.method}; say so, or --restart")
    ledger = last if going_on and last is not None else state.begin(shelf, task, method.value, STEPS)
    console = Console(stderr=True)
    console.print(f"{'goes on with' if going_on else 'begins'} run {ledger.state.run}", style="dim", highlight=False)
    ended = run_interruptibly(distilled(plan, wish, ledger, at, addresses, Gateway(addresses.url, key), console))
    if as_json:
        typer.echo(json.dumps(asdict(ended), indent=2, ensure_ascii=False))
    if ended.outcome == REFUSED_OUTCOME:
        raise typer.Exit(REFUSED_CODE)


def _show(ledger: Ledger | None, task: str, as_json: bool) -> None:
    if ledger is None:
        raise Misused(f"nothing was distilled of '{task}' here")
    if as_json:
        typer.echo(json.dumps(asdict(ledger.state), indent=2, ensure_ascii=False))
    else:
        pages.show(ledger.state)
