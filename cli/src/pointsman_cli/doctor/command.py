"""`pointsman doctor`: checks this machine, a remote deployment or one engine, and prints the findings."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from pointsman_cli.data_dir import DataDir, find_run
from pointsman_cli.doctor.cluster import Cluster, check_cluster
from pointsman_cli.doctor.machine import (
    Finding,
    Level,
    check_hardware,
    check_installation,
    fail,
    has_engine,
    look_at_machine,
    ok,
    warn,
)
from pointsman_cli.doctor.running import check_ports, check_running
from pointsman_cli.doctor.security import check_deployment, check_gateway, summary
from pointsman_cli.errors import UsageError, run_interruptibly
from pointsman_cli.example import EXAMPLE_FILE, check_retriever, load_example
from pointsman_cli.lab_commands import config_folder_of
from pointsman_cli.options import (
    DEFAULT_DATA_DIR,
    DEFAULT_GRPC,
    DEFAULT_HTTP,
    KEY_VARIABLE,
    DataDirOption,
    EnginePythonOption,
    KeyEnvOption,
    api_key,
    web_url,
)

_STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}
_CHECK_SECONDS = 60.0
_ENGINE_SECONDS = 300.0
_BASE_MODEL = "smollm2-135m"


def _address_option(protocol: str, default: str) -> Any:
    return typer.Option(
        metavar="HOST:PORT",
        help=f"The {protocol} address to check; default: that of the running `pointsman up`, then {default}.",
        show_default=False,
    )


def doctor(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[EXAMPLE_FOLDER]", help="Also check the pointsman.yaml and the configuration of this folder."
        ),
    ] = None,
    http: Annotated[str, _address_option("HTTP", DEFAULT_HTTP)] = "",
    grpc: Annotated[str, _address_option("gRPC", DEFAULT_GRPC)] = "",
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    engine_python: EnginePythonOption = None,
    cluster: Annotated[
        str, typer.Option(metavar="URL", help="Check the deployment behind this HTTP URL from outside instead.")
    ] = "",
    cluster_grpc: Annotated[str, typer.Option(metavar="HOST:PORT", help="Also check its gRPC address.")] = "",
    engine: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Check this engine of the configuration instead, with real requests (costs money).",
        ),
    ] = "",
    key_env: KeyEnvOption = KEY_VARIABLE,
    security: Annotated[
        bool, typer.Option("--security", help="Only report what the running deployment leaves open.")
    ] = False,
    ask: Annotated[bool, typer.Option("--ask", help="Also have one request answered there (costs money).")] = False,
) -> None:
    """Check this machine and say what to fix. Exit code 1 if a check fails.

    With --cluster: check a running deployment from outside. With --engine: send requests to one engine of the folder's
    configuration, or of the running `pointsman up`. With --security: report what others can access in this machine's
    deployment, or in the one behind --cluster.
    """
    console = Console()
    failed = False
    if security:
        found = _security_findings(web_url(cluster) if cluster else "", DataDir.at(data_dir))
    elif engine:
        found = list(check_engine_of(config_folder_of(folder, DataDir.at(data_dir)), engine))
    elif cluster:
        found = run_interruptibly(_of_cluster(Cluster(web_url(cluster), cluster_grpc, api_key(key_env), ask)))
    else:
        found = list(_findings(folder, (http, grpc), DataDir.at(data_dir), engine_python, api_key(key_env)))
    for finding in found:
        failed |= finding.level is Level.FAIL
        console.print(f"{finding.level.value:4}", style=_STYLES[finding.level], end=" ")
        console.print(f"{finding.what}: {finding.detail}", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(1 if failed else 0)


def _findings(
    folder: Path | None, addresses: tuple[str, str], data_dir: DataDir, engine_python: Path | None, key: str
) -> Iterator[Finding]:
    engine = has_engine(data_dir, engine_python) or _needs_engine(folder)
    yield from check_hardware(look_at_machine(data_dir.folder), engine=engine)
    yield from check_installation(data_dir, engine_python, _BASE_MODEL, engine=engine)
    run = find_run(data_dir.folder)
    yield from check_ports(*addresses, run)
    if folder is not None:
        yield from check_example(folder)
    yield from run_interruptibly(check_running(run, key))


def _needs_engine(folder: Path | None) -> bool:
    try:
        return folder is not None and bool(load_example(folder).base_model)
    except UsageError:
        return False  # reported by check_example


def _security_findings(url: str, data_dir: DataDir) -> list[Finding]:
    """Returns the security findings on the gateway at `url`; if `url` is empty, on the deployment of this machine."""
    run = find_run(data_dir.folder)
    found = run_interruptibly(check_gateway(url) if url else check_deployment(run, data_dir))
    return [*found, summary(found)]


async def _of_cluster(cluster: Cluster) -> list[Finding]:
    return [finding async for finding in check_cluster(cluster)]


def check_example(folder: Path) -> Iterator[Finding]:
    """Yields the findings on a folder's pointsman.yaml, and on the configuration that it names.

    If pointsman.yaml is valid, a gateway process (`--check`) checks the configuration. If the configuration is valid
    too, each warning of this process is a finding.
    """
    try:
        loaded = load_example(folder)
        check_retriever(loaded)
    except UsageError as error:
        yield fail("example", str(error))
        return
    yield ok("example", str(loaded.folder / EXAMPLE_FILE))
    program = [sys.executable, "-m", "pointsman_gateway", "--check", str(loaded.config)]
    environment = {
        "POINTSMAN_LORA_SERVER": "127.0.0.1:8083",
        **os.environ,
    }  # the example's models.yaml needs the variable
    try:
        done = subprocess.run(program, capture_output=True, text=True, timeout=_CHECK_SECONDS, env=environment)
    except subprocess.TimeoutExpired:
        yield fail("config", f"the gateway did not judge {loaded.config} within {_CHECK_SECONDS:g} s")
        return
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines()
    for note in lines[:-1] if done.returncode == 0 else ():
        yield warn("config", note)
    last = lines[-1] if lines else _silence(done.returncode)
    yield ok("config", last) if done.returncode == 0 else fail("config", last)


def check_engine_of(config: Path, name: str) -> Iterator[Finding]:
    """Sends test requests to the engine `name` of the configuration folder `config`; yields a finding for each check.

    A gateway process (`--check --engine`) sends them. A failure is a finding, not an error.
    """
    program = [sys.executable, "-m", "pointsman_gateway", "--check", str(config), "--engine", name]
    environment = {"POINTSMAN_LORA_SERVER": "127.0.0.1:8083", **os.environ}
    try:
        done = subprocess.run(program, capture_output=True, text=True, timeout=_ENGINE_SECONDS, env=environment)
    except subprocess.TimeoutExpired:
        yield fail(name, f"the checks did not end within {_ENGINE_SECONDS:g} s")
        return
    for line in done.stdout.splitlines():
        found = json.loads(line)
        yield Finding(Level(found["level"]), f"{name}: {found['what']}", found["detail"])
    if done.returncode and done.stderr.strip():
        yield fail(name, done.stderr.strip().splitlines()[-1].removeprefix("pointsman_gateway: "))


def _silence(code: int) -> str:
    return f"the gateway printed nothing (exit code {code})"
