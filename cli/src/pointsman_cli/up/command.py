"""`pointsman up`: everything on one machine, until it is told to stop."""

import asyncio
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pointsman_cli.data_dir import DataDir, Run, RunningProcess, read_run, write_run
from pointsman_cli.engine_environment import find_engine
from pointsman_cli.errors import run_interruptibly
from pointsman_cli.example import load_example
from pointsman_cli.options import DEFAULT_DATA_DIR, DataDirOption, EnginePythonOption
from pointsman_cli.up import monitoring, ports
from pointsman_cli.up.child import Backoff
from pointsman_cli.up.crew import Crew, guarded, refuse_if_locked
from pointsman_cli.up.plan import Programs, make_plan
from pointsman_cli.up.screen import Screen
from pointsman_cli.up.starting import Setup, start_all
from pointsman_cli.up.valkey import redis_url, server_binary


def up(
    folder: Annotated[
        Path, typer.Argument(metavar="EXAMPLE_FOLDER", help="An example folder (with a pointsman.yaml).")
    ],
    http: Annotated[str, typer.Option(metavar="HOST:PORT", help="HTTP address of the gateway.")] = "127.0.0.1:8080",
    grpc: Annotated[str, typer.Option(metavar="HOST:PORT", help="gRPC address of the gateway.")] = "127.0.0.1:8081",
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    engine_python: EnginePythonOption = None,
    with_monitoring: Annotated[
        bool, typer.Option("--monitoring", help="Also run the installed Prometheus, which scrapes all services.")
    ] = False,
    prometheus_port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="PORT", help="Port of Prometheus on 127.0.0.1; 0: any free port.")
    ] = 9090,
) -> None:
    """Run all services on this machine: Valkey, retriever, lora-server with vLLM, and gateway.

    Prepares the models on first use, ingests the example's collections, registers its adapters, and restarts services
    that die. Ctrl-C stops everything. In the data directory, run.json lists the processes and logs/ holds their logs.
    """
    at = DataDir.at(data_dir)
    loaded = load_example(folder)
    engine = find_engine(at, engine_python)
    prometheus = monitoring.find_program() if with_monitoring else None
    refuse_if_locked(at.lock_file)
    read_run(at.run_file)  # or it could not be written, once everything runs
    with ports.holding(f"{ports.HOST}:{prometheus_port if prometheus else 0}", "--prometheus-port") as beside:
        addresses = ports.choose(http, grpc)
    programs = Programs(engine.python, server_binary())
    plan = make_plan(loaded, at, addresses, programs)
    if prometheus:
        plan = replace(plan, prometheus=monitoring.make_service(prometheus, beside, at))
    setup = Setup(loaded, at, engine, programs.python, addresses, plan)
    screen = Screen(Console())
    run_interruptibly(run_up(setup, screen, Backoff()))
    screen.say("stopped")


async def run_up(setup: Setup, screen: Screen, backoff: Backoff) -> None:
    """Runs all until it is cancelled; that is its proper end once everything came up, and an interruption before."""
    async with guarded(setup.data_dir.lock_file) as guard:
        crew = Crew(guard)
        try:
            adapters = await start_all(setup, crew, screen)
            run = _write_run(setup, crew)
            screen.summary(run, adapters)

            def report(line: str) -> None:
                screen.say(line)
                _write_run(setup, crew)  # a new process has a new pid

            with suppress(asyncio.CancelledError):
                await crew.keep_running(report, backoff)
        finally:
            setup.data_dir.run_file.unlink(missing_ok=True)
            await crew.stop(screen.say)


def _write_run(setup: Setup, crew: Crew) -> Run:
    addresses = setup.addresses
    run = Run(
        pid=os.getpid(),
        example=str(setup.example.folder),
        http=f"http://{addresses.http}",
        grpc=addresses.grpc,
        retriever=addresses.retriever,
        lora_server=addresses.lora_server,
        engine=f"http://{addresses.engine}",
        redis_url=redis_url(setup.data_dir),
        gateway_metrics=f"http://{addresses.http}/metrics",
        retriever_metrics=f"http://{addresses.retriever_metrics}/metrics",
        lora_server_metrics=f"http://{addresses.lora_server_metrics}/metrics",
        processes={
            child.service.name: RunningProcess(child.pid, child.service.address, str(child.service.log))
            for child in crew.children
        },
    )
    write_run(run, setup.data_dir.run_file)
    return run
