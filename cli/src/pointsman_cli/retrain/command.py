"""`pointsman retrain`: creates the steps of a retraining, runs them, and shows their progress and results."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from pointsman_cli.data_dir import DataDir, find_run
from pointsman_cli.errors import UsageError, run_interruptibly
from pointsman_cli.lab_commands import (
    ConfigOption,
    DatasetsOption,
    Rendering,
    TaskArgument,
    config_folder_of,
    datasets_folder,
)
from pointsman_cli.lab_process import LabJob, lab_facts
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
    print_json,
    table_console,
    web_url,
)
from pointsman_cli.retrain.data_step import DataStep, Gateway, RowRenderer
from pointsman_cli.retrain.evaluate_step import EvaluateStep, make_scorer
from pointsman_cli.retrain.rollout_steps import CanaryStep, PromoteStep
from pointsman_cli.retrain.run_state import (
    REJECTED,
    RetrainPlan,
    RunFile,
    RunState,
    Step,
    StepState,
    latest_run,
    read_plan,
    run_steps,
    start_run,
)
from pointsman_cli.retrain.train_step import CollectionDates, Registry, Trainer, TrainStep
from pointsman_cli.retrain.training_method import fetch_method
from pointsman_cli.tables import print_table
from pointsman_cli.train.options import DEFAULT_METHOD, ServedMethodOption
from pointsman_cli.train.progress import Evaluation, Message, TrainingStep, to_event

LINE_INTERVAL_SECONDS = 10.0
"""The least number of seconds between two printed progress lines about the same work."""

RUNS_FOLDER = "retrain"
"""The name of the folder in the data directory with the states of all retrainings; it has a folder for each task."""
REJECTED_EXIT_CODE = 3
"""The exit code of `retrain` if a step rejected the new adapter version. A rejection is a result, not an error."""

STEPS = ("data", "train", "evaluate", "canary", "promote")

StepChoice = Enum("Step", {step: step for step in STEPS}, type=str)  # type: ignore[misc]  # typer shows the values of such


class ProgressLines:
    """Prints the progress of a retraining as lines of text."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said: dict[str, float] = {}

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def count(self, what: str, done: int, total: int) -> None:
        self._now_and_then(what, f"{what}: {done} of {total}", at_once=done >= total)

    def training(self, kind: str, facts: Mapping[str, object]) -> None:
        """Prints an event of a training job if its kind is a training step, an evaluation or a message.

        `kind` and `facts` are the event's kind and fields, as `training_events` yields them. Training steps are printed
        at most once in LINE_INTERVAL_SECONDS.
        """
        event = to_event(kind, dict(facts))
        if isinstance(event, TrainingStep):
            self._now_and_then("step", f"training: step {event.step} of {event.steps}, loss {event.loss:.3f}")
        elif isinstance(event, Evaluation):
            measured = ", ".join(f"{name} {value:.3f}" for name, value in event.metrics.items())
            self.say(f"training: {event.when}, held-out loss {event.loss or 0:.3f} {measured}".rstrip())
        elif isinstance(event, Message):
            self.say(f"training: {event.text}")

    def _now_and_then(self, what: str, line: str, at_once: bool = False) -> None:
        now = time.monotonic()
        if at_once or now - self._said.get(what, 0.0) >= LINE_INTERVAL_SECONDS:
            self._said[what] = now
            self.say(line)


def print_run(state: RunState) -> None:
    console = table_console()
    headline = f"{state.task}, run {state.run} ({state.method}): {state.outcome or 'under way'}"
    console.print(Text(headline, style="bold"))
    if state.reason:
        console.print(Text(f"  {state.reason}"))
    rows = [(name, step.status, _time(step), "; ".join(_facts(step))) for name, step in state.steps.items()]
    print_table(("step", "status", "ended", "what"), rows)


def _facts(step: StepState) -> Iterator[str]:
    """Yields "NAME VALUE" for each fact of a step that is a number, or a text that is not empty."""
    for name, value in step.facts.items():
        if isinstance(value, str | int | float) and not isinstance(value, bool) and value != "":
            yield f"{name} {value}"


def _time(step: StepState) -> str:
    return datetime.fromtimestamp(step.ended, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if step.ended else ""


def retrain(
    task: TaskArgument,
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help='Also send these to the teacher path: lines of text or {"text": ...}.'),
    ] = None,
    method: ServedMethodOption = DEFAULT_METHOD,
    stop_after: Annotated[
        StepChoice | None,
        typer.Option(help="Stop after this step; run the command again to continue.", show_default=False),
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

    If the run was interrupted, killed or stopped by --stop-after, the same command continues it. Exit code 3: rejected.
    """
    at = DataDir.at(data_dir)
    runs_folder = at.folder / RUNS_FOLDER / task
    if status:
        _show(latest_run(runs_folder), task, as_json)
        return
    last = None if restart else latest_run(runs_folder)
    wish = RetrainRequest(
        task,
        config_folder_of(config, at),
        datasets_folder(datasets, at),
        prompts,
        method,
        stop_after.value if stop_after else "",
    )
    addresses = RetrainAddresses.of(at, url, redis, retriever, lora_server)
    plan = run_interruptibly(read_plan(wish.config, task, at))
    going_on = last is not None and not last.state.outcome
    if going_on and last is not None and last.state.method != method:
        raise UsageError(f"run {last.state.run} uses --method {last.state.method}; give that, or --restart")
    run_file = last if going_on and last is not None else start_run(runs_folder, task, method, STEPS)
    console = Console(stderr=True)
    console.print(f"{'continues' if going_on else 'starts'} run {run_file.state.run}", style="dim", highlight=False)
    ended = run_interruptibly(
        run_retraining(
            plan,
            wish=wish,
            run_file=run_file,
            data_dir=at,
            addresses=addresses,
            gateway=Gateway(addresses.url, api_key(key_env)),
            console=console,
        )
    )
    if as_json:
        print_json(asdict(ended))
    if ended.outcome == REJECTED:
        raise typer.Exit(REJECTED_EXIT_CODE)


def _show(run_file: RunFile | None, task: str, as_json: bool) -> None:
    if run_file is None:
        raise UsageError(f"task '{task}' has not been retrained here")
    if as_json:
        print_json(asdict(run_file.state))
    else:
        print_run(run_file.state)


@dataclass(frozen=True, slots=True)
class RetrainAddresses:
    """The addresses that a retraining needs: gateway URL, Redis URL, and retriever and lora-server as "HOST:PORT"."""

    url: str
    """The base URL of the gateway."""
    redis: str
    """The URL of Redis with the request log; empty: the data comes from examples and the teacher's answers only."""
    retriever: str
    """The retriever's address, HOST:PORT; empty: the default address in the gateway's settings."""
    lora_server: str
    """The lora-server's address, HOST:PORT."""

    @classmethod
    def of(cls, data_dir: DataDir, url: str, redis: str, retriever: str, lora_server: str) -> "RetrainAddresses":
        """Returns the given addresses; an empty one is replaced by that of the running `pointsman up`.

        Raises UsageError if there is no address of a gateway or a lora-server, `url` is not a URL, or run.json cannot
        be opened.
        """
        running = find_run(data_dir.folder)
        if running is not None:
            url, redis = url or running.http, redis or running.redis_url
            retriever, lora_server = retriever or running.retriever, lora_server or running.lora_server
        if not url or not lora_server:
            raise UsageError("nothing runs here; name the gateway with --url and the lora-server with --lora-server")
        return cls(web_url(url), redis, retriever, lora_server)


@dataclass(frozen=True, slots=True)
class RetrainRequest:
    """The options of `pointsman retrain`: the task, the configuration, the data, the method, and where to stop."""

    task: str
    config: Path
    """The folder of the gateway's configuration."""
    data: Path
    """The folder to which the versions of all tasks' data sets are written."""
    texts: Path | None
    """The file of new prompts that the teacher path is to answer; None: no new prompts."""
    method: str
    until: str
    """The name of the step after which to stop, one of STEPS; empty: after the last step."""


async def run_retraining(
    plan: RetrainPlan,
    *,
    wish: RetrainRequest,
    run_file: RunFile,
    data_dir: DataDir,
    addresses: RetrainAddresses,
    gateway: Gateway,
    console: Console,
) -> RunState:
    """Runs the steps that `run_file` does not list as done, up to `wish.until`; returns the retraining's state.

    Raises CommandError or PointsmanError if a step fails; calling it again with the same `run_file` continues the run.
    """
    lines = ProgressLines(console)
    registry = Registry(addresses.lora_server, f"retrain {run_file.state.run}")
    method = await fetch_method(addresses.lora_server, wish.method)
    arguments = ["data", str(wish.config), wish.task, "--out", str(wish.data)]
    if addresses.redis:
        arguments += ["--redis", addresses.redis]

    async def build(teacher_answers: Path | None) -> dict[str, Any]:
        more = ["--teacher-answers", str(teacher_answers)] if teacher_answers else []
        return await lab_facts(LabJob([*arguments, *more], data_dir, as_json=True))

    def render_into(folder: str) -> RowRenderer:
        seed, out = int(plan.training.get("seed") or 0), run_file.folder / folder
        rendering = Rendering(wish.config, plan.student, addresses.retriever, out, seed)
        return partial(rendering.render, data_dir)

    async with gateway.open() as client:
        scorer = make_scorer(wish.task, plan.metric, client)
        steps: Sequence[Step] = (
            DataStep(plan, method, gateway, build, render_into("rendered"), run_file.folder, wish.texts, lines.count),
            TrainStep(
                plan,
                method,
                Trainer(addresses.lora_server, lines.training),
                registry,
                CollectionDates(addresses.retriever, "", plan.collections),
            ),
            EvaluateStep(plan, gateway, registry, scorer, render_into("asked"), run_file.folder, lines.count),
            CanaryStep(plan, registry, lines.count),
            PromoteStep(plan, registry),
        )
        return await run_steps(steps, run_file, registry.retire, lines.say, wish.until)
