"""`pointsman train`: the trainer as a process of the engine's environment, then the lora-server."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pointsman_cli import engine_environment, models, run_file
from pointsman_cli.engine_environment import EngineEnvironment
from pointsman_cli.errors import CommandError
from pointsman_cli.example import Adapter
from pointsman_cli.home import Home
from pointsman_cli.interrupts import run_interruptibly
from pointsman_cli.options import EnginePythonOption, HomeOption
from pointsman_cli.processes import run_to_end
from pointsman_cli.registering import register
from pointsman_cli.train.job import MODULE, Job, parse_event
from pointsman_cli.train.screen import TrainingScreen

BASE_MODEL = "smollm2-135m"


@dataclass(frozen=True, slots=True)
class Target:
    """Where the result is registered; nowhere without an address."""

    address: str
    alias: str


def train(
    name: Annotated[str, typer.Option(help="The adapter's name: 1 to 64 of a-z, 0-9, - and _.")],
    data: Annotated[Path, typer.Option(help="Examples, one JSON object a line.")],
    out: Annotated[
        Path, typer.Option(help="The folder that the adapter is written to; an older adapter there is replaced.")
    ],
    heldout: Annotated[
        Path | None, typer.Option(help="Examples to measure by; else some of --data are held out.")
    ] = None,
    rank: Annotated[int, typer.Option(min=1, max=64, help="Of the LoRA; the engine has a limit.")] = 4,
    epochs: Annotated[int, typer.Option(min=1, help="At most.")] = 3,
    max_minutes: Annotated[float, typer.Option(min=0.1, help="Stops there, with what it has by then.")] = 10,
    seed: Annotated[int, typer.Option(min=0)] = 7,
    learning_rate: Annotated[float | None, typer.Option(min=1e-7, max=1, help="Else the trainer's own.")] = None,
    system: Annotated[Path | None, typer.Option(help="A file with the system message of every example.")] = None,
    registered: Annotated[
        bool, typer.Option("--register/--no-register", help="Have a running lora-server load the result.")
    ] = True,
    alias: Annotated[str, typer.Option(help="Move the alias NAME@WORD to the result; none is moved without it.")] = "",
    lora_server: Annotated[str, typer.Option(help="Its address; else that of the running `pointsman up`.")] = "",
    home: HomeOption = Path(".pointsman"),
    engine_python: EnginePythonOption = None,
) -> None:
    """Train a LoRA adapter on the base model from examples, and register it. Ctrl-C stops it."""
    at = Home.at(home)
    job = Job(
        name=name, base_model=at.model(BASE_MODEL), base_model_name=BASE_MODEL, data=data, heldout=heldout, out=out,
        rank=rank, epochs=epochs, max_minutes=max_minutes, seed=seed, learning_rate=learning_rate, system=system,
    )  # fmt: skip
    job.check()
    engine = engine_environment.find(at, engine_python)
    running = run_file.read(at.run_file)
    target = Target(lora_server or (running.lora_server if running else ""), alias) if registered else None
    run_interruptibly(_train(job, at, engine, target))


async def _train(job: Job, home: Home, engine: EngineEnvironment, target: Target | None) -> None:
    console = Console()
    await models.prepare_base_model(job.base_model_name, home, engine, lambda line: console.print(line, style="dim"))
    with TrainingScreen(console, job.name) as screen:
        program = engine.module(MODULE, *job.arguments())
        ended = await run_to_end(program, engine.variables, lambda line: screen.show(parse_event(line)), screen.remark)
    if ended.code != 0:
        raise CommandError(f"the training of {job.name} failed: {ended.how}")
    if screen.done is None:
        raise CommandError(f"the trainer of {job.name} ended without saying that it was done: {ended.how}")
    _say(console, f"{screen.done.folder} after {screen.done.seconds:.0f} s")
    if target is not None:
        await _register(job, screen, screen.done.folder, target, console)


async def _register(job: Job, screen: TrainingScreen, folder: Path, target: Target, console: Console) -> None:
    if not target.address:
        _say(console, "not registered, since nothing runs here; `pointsman up` registers what pointsman.yaml names")
        return
    facts = {"seed": str(job.seed), "train_file": job.data.name}
    if "rows" in screen.facts:
        facts["train_rows"] = str(screen.facts["rows"])
    if screen.heldout_loss is not None:
        facts["heldout_loss"] = f"{screen.heldout_loss:.4f}"
    adapter = await register(target.address, Adapter(job.name, folder, target.alias), facts)
    _say(console, f"registered as {adapter}")


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
