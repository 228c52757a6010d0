"""`pointsman train`: runs the trainer on this machine, as a job of the lora-server, or as a Job of Kubernetes."""

from dataclasses import dataclass, replace
from pathlib import Path

import typer
from rich.console import Console

from pointsman_cli.data_dir import DataDir, find_run
from pointsman_cli.engine_environment import (
    BUILT_IN,
    BaseModel,
    EngineEnvironment,
    find_engine,
    locate_base_model,
    prepare_base_model,
    prepare_model,
)
from pointsman_cli.errors import CommandError, UsageError, run_interruptibly
from pointsman_cli.example import ExampleAdapter
from pointsman_cli.grpc_clients import Provenance, register_adapter
from pointsman_cli.jobs import TrainingOrder, start_job
from pointsman_cli.lab_commands import ConfigOption, Rendering, config_folder_of
from pointsman_cli.options import (
    DEFAULT_DATA_DIR,
    DataDirOption,
    EnginePythonOption,
    RetrieverOption,
    RunningLoraServerOption,
    retriever_address,
)
from pointsman_cli.processes import run_to_end
from pointsman_cli.train import options as given
from pointsman_cli.train.kubernetes_job import create_training, follow_training
from pointsman_cli.train.kubernetes_manifest import Manifests, Registration, as_train_job, read_job, training_manifests
from pointsman_cli.train.options import TRAINER_MODULE, TrainingJob
from pointsman_cli.train.progress import Done, TrainingProgress, parse_event
from pointsman_cli.train.question import TimeShortage, ask_how_to_go_on, can_ask

FROM_CSV = "from_csv"
"""The name of the folder in the data directory with training data converted from CSV, in a folder for each adapter."""
RENDERED = "rendered"
"""The name of the folder in the data directory with training rows rendered as prompts, in a folder for each adapter."""


@dataclass(frozen=True, slots=True)
class TrainingTarget:
    """The lora-server at which the trained adapter is registered, and the alias that then points to it."""

    address: str
    """The lora-server's address, HOST:PORT; empty: the adapter is not registered."""
    alias: str
    """The alias that the lora-server moves to the new version; if it is empty, no alias is moved."""
    origin: Provenance


def train(
    name: given.NameOption,
    data: given.DataOption,
    out: given.OutOption = None,
    base_model: given.BaseModelOption = BUILT_IN,
    eval_data: given.EvalDataOption = None,
    system: given.SystemOption = None,
    path: given.PathOption = "",
    config: ConfigOption = None,
    method: given.MethodOption = given.DEFAULT_METHOD,
    init_from: given.InitFromOption = "",
    rank: given.RankOption = 4,
    epochs: given.EpochsOption = 3,
    max_minutes: given.MinutesOption = 10,
    min_epochs: given.MinEpochsOption = None,
    max_rows: given.MaxRowsOption = None,
    processes: given.ProcessesOption = None,
    fsdp: given.FsdpOption = False,
    seed: given.SeedOption = 7,
    learning_rate: given.RateOption = None,
    beta: given.BetaOption = None,
    samples: given.SamplesOption = None,
    baseline_shots: given.ShotsOption = None,
    patience: given.PatienceOption = None,
    stop_on: given.StopOnOption = None,
    check_only: given.CheckOption = False,
    evaluate_only: given.EvaluateOption = False,
    checkpoint: given.CheckpointOption = None,
    resume: given.ResumeOption = False,
    merged_out: given.MergedOption = None,
    registered: given.RegisterOption = True,
    alias: given.AliasOption = "",
    force: given.ForceOption = False,
    on_server: given.OnServerOption = False,
    on_kubernetes: given.OnKubernetesOption = None,
    train_job: given.TrainJobOption = "",
    dry_run: given.DryRunOption = False,
    detach: given.DetachOption = False,
    lora_server: RunningLoraServerOption = "",
    retriever: RetrieverOption = "",
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    engine_python: EnginePythonOption = None,
) -> None:
    """Train a LoRA adapter on examples and register it. Ctrl-C stops it, unless it runs --on-server or --on-kubernetes.

    The adapter is evaluated on held-out examples and compared with prompting the base model alone. If less than an
    epoch fits into --max-minutes, the command asks at a terminal how to continue; without a terminal, it fails.
    """
    learning = {
        "rank": rank, "epochs": epochs, "max-minutes": max_minutes, "seed": seed, "learning-rate": learning_rate,
        "beta": beta, "samples": samples, "baseline-shots": baseline_shots, "patience": patience,
        "min-epochs": min_epochs, "max-rows": max_rows,
    }  # fmt: skip
    job = TrainingJob(name, data, method, eval_data, system, out, learning)
    job.check()
    at = DataDir.at(data_dir)
    job = job.with_csv_as_json_lines(at.folder / FROM_CSV / name)
    if path:
        if system:
            raise UsageError("--path renders the path's own system message; leave out --system")
        at_retriever = retriever_address(retriever, data_dir)
        rendering = Rendering(config_folder_of(config, at), path, at_retriever, at.folder / RENDERED / name, seed)
        job = run_interruptibly(_rendered(job, rendering, at))
    running = find_run(data_dir)
    address = lora_server or (running.lora_server if running else "")
    if on_kubernetes is None and (train_job or dry_run):
        raise UsageError("--train-job and --dry-run are for --on-kubernetes FILE")
    if on_server or on_kubernetes is not None:
        where = "--on-server" if on_server else "--on-kubernetes"
        if base_model != BUILT_IN:
            raise UsageError(f"{where} has its own base model; leave out --base-model")
        _refuse_local(where, out, merged_out, checkpoint, resume or check_only or evaluate_only)
    if on_kubernetes is not None:
        if on_server or init_from:
            raise UsageError("--on-kubernetes trains a new adapter in a Job; leave out --on-server and --init-from")
        more = {"processes": processes, "fsdp": fsdp, "stop-on": stop_on.value if stop_on else None}
        job = replace(job, options={**learning, **more})
        manifests = _manifests(on_kubernetes, job, train_job, Registration(name, alias, force, _facts(job)))
        if dry_run:
            typer.echo(manifests.as_yaml(), nl=False)
            return
        server = lora_server if registered else ""
        run_interruptibly(_train_on_kubernetes(manifests, server, watched=not detach))
        return
    if on_server:
        if processes is not None or fsdp or stop_on:
            raise UsageError(
                "jobs of the lora-server have one process and their own --stop-on; leave out --processes, --fsdp and "
                "--stop-on"
            )
        order = TrainingOrder(job, init_from, alias, force)
        run_interruptibly(start_job(address, order, Console(), watched=not detach))
        return
    if out is None and not check_only:
        raise UsageError("--out names the folder that the adapter is written to")
    local = {
        "init-from": Path(init_from) if init_from else None, "stop-on": stop_on.value if stop_on else None,
        "check-only": check_only, "evaluate-only": evaluate_only, "checkpoint": checkpoint, "resume": resume,
        "merged-out": merged_out, "processes": processes, "fsdp": fsdp,
    }  # fmt: skip
    job = replace(job, out=out or at.folder / "nothing", options={**learning, **local})
    engine = find_engine(at, engine_python)
    base = locate_base_model(base_model, Path.cwd(), at)
    wanted = registered and not (check_only or evaluate_only)
    target = TrainingTarget(address, alias, Provenance(force=force)) if wanted else None
    while (shortage := run_interruptibly(_train(job, at, engine, base, target, check_only))) is not None:
        job = ask_how_to_go_on(job, shortage)


def _manifests(file: Path, job: TrainingJob, runtime: str, registration: Registration) -> Manifests:
    made = training_manifests(read_job(file), job, registration)
    if not runtime:
        return made
    train_job, lost = as_train_job(made.job, runtime)
    if lost:
        typer.echo(f"the runtime {runtime} decides instead of {file}: {', '.join(lost)}", err=True)
    return replace(made, job=train_job)


async def _train_on_kubernetes(manifests: Manifests, lora_server: str, *, watched: bool) -> None:
    console = Console()
    await create_training(manifests)
    _say(console, manifests.name)
    if watched:
        await follow_training(manifests.name, lora_server, console)


async def _rendered(job: TrainingJob, rendering: Rendering, data_dir: DataDir) -> TrainingJob:
    data, held_out, summary = await rendering.render(data_dir, job.data, job.heldout)
    _say(Console(), summary)
    return replace(job, data=data, heldout=held_out)


async def _train(
    job: TrainingJob,
    data_dir: DataDir,
    engine: EngineEnvironment,
    base: BaseModel,
    target: TrainingTarget | None,
    check_only: bool,
) -> TimeShortage | None:
    """Trains and registers an adapter; returns None.

    Returns a TimeShortage, and trains nothing, if too little fits into the time limit and a user can be asked what to
    do. Raises CommandError if the training fails.
    """
    console = Console()

    def show(line: str) -> None:
        console.print(line, style="dim")

    if base.is_built_in:
        await prepare_base_model(base.name, data_dir, engine, show)
    else:
        await prepare_model(base, engine, (), show)
    with TrainingProgress(console, job.name) as screen:
        program = engine.module(TRAINER_MODULE, *job.arguments(base.folder, base.name))
        ended = await run_to_end(program, engine.variables, lambda line: screen.show(parse_event(line)), screen.remark)
    if ended.code != 0 and screen.too_short is not None and can_ask():
        return TimeShortage(screen.too_short, ended.reason)
    if ended.code != 0:
        raise CommandError(f"the training of {job.name} failed: {ended.reason}")
    if check_only:
        return None
    if screen.done is None:
        raise CommandError(f"the trainer of {job.name} ended without saying that it was done: {ended.reason}")
    _say(console, f"{screen.done.folder} after {screen.done.seconds:.0f} s")
    if screen.done.merged is not None:
        _say(console, f"{screen.done.merged} holds the base model with the adapter merged in, for an engine of its own")
    if target is not None and screen.done.must_be_merged:
        _say(console, f"not registered: an engine cannot serve {job.method} as an adapter; serve the merged model")
    elif target is not None:
        await _register(job, screen, screen.done, target, console)
    return None


async def _register(
    job: TrainingJob, screen: TrainingProgress, done: Done, target: TrainingTarget, console: Console
) -> None:
    if not target.address:
        _say(console, "not registered, since nothing runs here; `pointsman up` registers what pointsman.yaml names")
        return
    facts = _facts(job)
    if "rows" in screen.facts:
        facts["train_rows"] = str(screen.facts["rows"])
    if "heldout_loss" in done.metrics:
        facts["heldout_loss"] = f"{done.metrics['heldout_loss']:.4f}"
    adapter = await register_adapter(
        target.address, ExampleAdapter(job.name, done.folder, target.alias), facts, target.origin
    )
    _say(console, f"registered as {adapter}")


def _facts(job: TrainingJob) -> dict[str, str]:
    return {"method": job.method, "seed": str(job.options["seed"]), "train_file": job.data.name}


def _refuse_local(
    where: str, out: Path | None, merged_out: Path | None, checkpoint: Path | None, has_flags: bool
) -> None:
    if out or merged_out or checkpoint or has_flags:
        raise UsageError(
            f"{where} keeps folders and checkpoints itself: leave out --out, --merged-out, --checkpoint, --resume, "
            "--check-only and --evaluate-only"
        )


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
