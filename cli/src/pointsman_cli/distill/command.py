"""`pointsman distill`: from what was kept of answers to an adapter that serves, or is refused."""

import json
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pointsman_cli.data_dir import DataDir
from pointsman_cli.datasets import ConfigOption, DatasetsOption, TaskArgument, config_folder_of, datasets_folder
from pointsman_cli.distill import pages, state
from pointsman_cli.distill.asking import Gateway
from pointsman_cli.distill.machine import REFUSED_OUTCOME
from pointsman_cli.distill.plan import read_plan
from pointsman_cli.distill.state import Ledger
from pointsman_cli.distill.wiring import STEPS, Addresses, Wish, distilled
from pointsman_cli.errors import UsageError, run_interruptibly
from pointsman_cli.options import (
    DEFAULT_DATA_DIR,
    KEY_VARIABLE,
    DataDirOption,
    JsonOption,
    KeyEnvOption,
    RedisOption,
    RetrieverOption,
    RunningLoraServerOption,
    UrlOption,
    api_key,
)

RUNS = "retrain"
"""The folder of the runs, inside the data directory."""
REFUSED_CODE = 3
"""The command's exit code where a version was refused: nothing is wrong with the command."""

Step = Enum("Step", {step: step for step in STEPS}, type=str)  # type: ignore[misc]  # typer shows the values of such


class Method(str, Enum):  # noqa: UP042  # typer shows the values of such
    LORA = "lora"
    RSLORA = "rslora"
    QLORA = "qlora"
    DPO = "dpo"


def retrain(
    task: TaskArgument,
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help='Also send these to the teacher path: lines of text or {"text": ...}.'),
    ] = None,
    method: Annotated[Method, typer.Option(help="Training method; dpo learns from pairs of answers.")] = Method.LORA,
    stop_after: Annotated[
        Step | None, typer.Option(help="Stop after this step; run the command again to continue.", show_default=False)
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Start a new run even if the last one is unfinished.")
    ] = False,
    status: Annotated[bool, typer.Option("--status", help="Show the state of the last run and do nothing.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    datasets: DatasetsOption = None,
    url: UrlOption = "",
    key_env: KeyEnvOption = KEY_VARIABLE,
    redis: RedisOption = "",
    retriever: RetrieverOption = "",
    lora_server: RunningLoraServerOption = "",
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Retrain a task's adapter: build data, train, evaluate, canary, then promote or reject it with the reason.

    If it was interrupted, killed or stopped by --stop-after, the same command continues. Exit code 3: rejected.
    """
    at = DataDir.at(data_dir)
    shelf = at.folder / RUNS / task
    last = state.latest(shelf)
    if status:
        _show(last, task, as_json)
        return
    wish = Wish(
        task,
        config_folder_of(config, at),
        datasets_folder(datasets, at),
        prompts,
        method.value,
        stop_after.value if stop_after else "",
    )
    addresses = Addresses.of(at, url, redis, retriever, lora_server)
    plan = run_interruptibly(read_plan(wish.config, task, at))
    going_on = last is not None and not last.state.outcome and not restart
    if going_on and last is not None and last.state.method != method.value:
        raise UsageError(f"run {last.state.run} uses --method {last.state.method}; give that, or --restart")
    ledger = last if going_on and last is not None else state.begin(shelf, task, method.value, STEPS)
    console = Console(stderr=True)
    console.print(f"{'continues' if going_on else 'starts'} run {ledger.state.run}", style="dim", highlight=False)
    ended = run_interruptibly(
        distilled(plan, wish, ledger, at, addresses, Gateway(addresses.url, api_key(key_env)), console)
    )
    if as_json:
        typer.echo(json.dumps(asdict(ended), indent=2, ensure_ascii=False))
    if ended.outcome == REFUSED_OUTCOME:
        raise typer.Exit(REFUSED_CODE)


def _show(ledger: Ledger | None, task: str, as_json: bool) -> None:
    if ledger is None:
        raise UsageError(f"task '{task}' has not been retrained here")
    if as_json:
        typer.echo(json.dumps(asdict(ledger.state), indent=2, ensure_ascii=False))
    else:
        pages.show(ledger.state)
