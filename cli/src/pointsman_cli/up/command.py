"""`pointsman up`: reads the options, prepares models and configuration, and runs the services until Ctrl-C."""

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from pointsman_servicekit.process import Backoff
from rich.console import Console

from pointsman_cli.data_dir import DataDir, Run, RunningProcess, read_run, write_run
from pointsman_cli.engine_environment import (
    BUILT_IN_CONTEXT,
    BaseModel,
    EngineEnvironment,
    find_engine,
    locate_base_model,
    prepare_model,
    write_model_config,
)
from pointsman_cli.errors import UsageError, run_interruptibly
from pointsman_cli.example import check_retriever, load_example
from pointsman_cli.options import DEFAULT_DATA_DIR, DEFAULT_GRPC, DEFAULT_HTTP, DataDirOption, EnginePythonOption
from pointsman_cli.up.config_edits import report_edits
from pointsman_cli.up.own_engine import HEADING, EngineOption, write_engine_config
from pointsman_cli.up.plan import (
    HOST,
    Programs,
    choose_addresses,
    hold_port,
    make_plan,
    needed_addresses,
    redis_url,
    server_binary,
    with_workers,
)
from pointsman_cli.up.prometheus import find_program, make_service
from pointsman_cli.up.startup import StartPlan, StartupOutput, start_all
from pointsman_cli.up.supervisor import Supervisor, reaper_running, refuse_if_locked


def up(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="[EXAMPLE_FOLDER]", help="A folder with a pointsman.yaml; or --engine or --model."),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            metavar="URL", help="An engine or provider that runs already, in place of a folder: no vLLM is started."
        ),
    ] = "",
    key_env: Annotated[
        str, typer.Option(metavar="VARIABLE", help="The environment variable with the API key for --engine.")
    ] = "",
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="In place of a folder: the model that vLLM serves, a folder or a name at the Hugging Face hub. With "
            "--engine: a model of that engine; may be repeated; default: those that it lists.",
        ),
    ] = None,
    engine_arg: Annotated[
        list[str] | None,
        typer.Option(metavar="ARGUMENT", help="An argument for vLLM, as in --engine-arg=--enforce-eager; repeatable."),
    ] = None,
    http: Annotated[str, typer.Option(metavar="HOST:PORT", help="HTTP address of the gateway.")] = DEFAULT_HTTP,
    grpc: Annotated[str, typer.Option(metavar="HOST:PORT", help="gRPC address of the gateway.")] = DEFAULT_GRPC,
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=64, metavar="N", help="Processes of the gateway; one for each core it may use."),
    ] = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    engine_python: EnginePythonOption = None,
    with_monitoring: Annotated[
        bool, typer.Option("--monitoring", help="Also run the installed Prometheus, which scrapes all services.")
    ] = False,
    prometheus_port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="PORT", help="Port of Prometheus on 127.0.0.1; 0: any free port.")
    ] = 9090,
) -> None:
    """Run the services on this machine: Valkey, retriever, lora-server with vLLM, and gateway.

    Without a base_model in pointsman.yaml, or with --engine, no lora-server and no vLLM are started, and without
    retrieval no retriever. Without tasks no embedding model is prepared, unless something else embeds texts.

    Prepares the models on first use, ingests the example's collections, registers its adapters, and restarts services
    that die. Ctrl-C stops everything. In the data directory, run.json lists the processes and logs/ holds their logs.
    """
    at, arguments = DataDir.at(data_dir), tuple(engine_arg or ())
    if [folder is None, not engine, engine != "" or not model].count(False) != 1:
        raise UsageError(
            "name one of these: an example folder, an engine that runs already with --engine URL, or a model that vLLM "
            "serves with --model"
        )
    if key_env and not engine:
        raise UsageError("--key-env is for --engine; pointsman.yaml names its own engines")
    base: BaseModel | None = None
    if folder is None and not engine:
        folder, base = _own_model(model or [], arguments, at, find_engine(at, engine_python))
    loaded = load_example(folder or write_engine_config(EngineOption(engine, key_env, tuple(model or ())), at))
    check_retriever(loaded)
    environment = find_engine(at, engine_python) if loaded.base_model else None
    if environment and base is None:
        located = locate_base_model(loaded.base_model, loaded.folder, at)
        base = _prepared(located, environment, arguments)
    if arguments and not environment:
        raise UsageError("--engine-arg is for the vLLM that `pointsman up` starts; here it starts none")
    prometheus = find_program() if with_monitoring else None
    refuse_if_locked(at.lock_file)
    read_run(at.run_file)  # fail now rather than after everything has started
    with hold_port(f"{HOST}:{prometheus_port if prometheus else 0}", "--prometheus-port") as prometheus_address:
        addresses = needed_addresses(choose_addresses(http, grpc), loaded)
    programs = Programs(environment.python if environment else None, server_binary())
    plan = make_plan(loaded, at, addresses, programs, base)
    if workers:
        plan = replace(plan, gateway=with_workers(plan.gateway, workers))
    if prometheus:
        plan = replace(plan, prometheus=make_service(prometheus, prometheus_address, at))
    setup = StartPlan(loaded, at, environment, programs.python, addresses, plan)
    screen = StartupOutput(Console())
    run_interruptibly(run_up(setup, screen, Backoff()))
    screen.say("stopped")


def _own_model(
    names: Sequence[str], arguments: Sequence[str], data_dir: DataDir, environment: EngineEnvironment
) -> tuple[Path, BaseModel]:
    """Prepares the model of `--model` and writes a configuration for it; returns the configuration's folder, the model.

    `arguments` are more arguments for vLLM. Raises UsageError if there are several names, UsageError or CommandError if
    the model cannot be located or served, OSError if the file cannot be written.
    """
    if len(names) > 1:
        raise UsageError(f"vLLM serves one model; --model is given {len(names)} times")
    located = locate_base_model(names[0], Path.cwd(), data_dir)
    if located.is_built_in:
        located = replace(located, context_window=BUILT_IN_CONTEXT)
    model = _prepared(located, environment, arguments)
    return write_model_config(model, HEADING, data_dir), model


def _prepared(model: BaseModel, environment: EngineEnvironment, arguments: Sequence[str]) -> BaseModel:
    console = Console()
    return run_interruptibly(
        prepare_model(model, environment, arguments, lambda line: console.print(line, style="dim", markup=False))
    )


async def run_up(setup: StartPlan, screen: StartupOutput, backoff: Backoff) -> None:
    """Starts all services, restarts those that die, and stops them when it is cancelled or a start fails.

    `backoff` computes the delay before a restart. Writes run.json when all services have started, and removes it in the
    end. Raises UsageError if another `pointsman up` runs, CommandError or PointsmanError if a start fails, and OSError
    if a file cannot be written.
    """
    async with reaper_running(setup.data_dir.lock_file) as guard:
        supervisor = Supervisor(guard)
        try:
            adapters = await start_all(setup, supervisor, screen)
            run = _write_run(setup, supervisor)
            screen.summary(run, adapters)

            def report(line: str) -> None:
                screen.say(line)
                _write_run(setup, supervisor)  # a restarted process has a new pid

            with suppress(asyncio.CancelledError):
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(report_edits(setup.plan.gateway.log, screen.say))
                    tasks.create_task(supervisor.keep_running(report, backoff))
        finally:
            setup.data_dir.run_file.unlink(missing_ok=True)
            await supervisor.stop(screen.say)


def _metrics_url(address: str) -> str:
    return f"http://{address}/metrics" if address else ""


def _write_run(setup: StartPlan, supervisor: Supervisor) -> Run:
    addresses = setup.addresses
    run = Run(
        pid=os.getpid(),
        example=str(setup.example.folder),
        http=f"http://{addresses.http}",
        grpc=addresses.grpc,
        retriever=addresses.retriever,
        lora_server=addresses.lora_server,
        engine=f"http://{addresses.engine}" if addresses.engine else "",
        redis_url=redis_url(setup.data_dir),
        gateway_metrics=f"http://{addresses.http}/metrics",
        retriever_metrics=_metrics_url(addresses.retriever_metrics),
        lora_server_metrics=_metrics_url(addresses.lora_server_metrics),
        processes={
            child.service.name: RunningProcess(child.pid, child.service.address, str(child.service.log))
            for child in supervisor.children
        },
    )
    write_run(run, setup.data_dir.run_file)
    return run
