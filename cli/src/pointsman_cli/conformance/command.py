"""`pointsman conformance swap`: a test of any OpenAI-compatible engine or fleet that serves adapters."""

import os
import secrets
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from pointsman_cli.conformance.adapter_shelf import AdapterShelf, make_adapters
from pointsman_cli.conformance.bench import Bench
from pointsman_cli.conformance.command_control import CommandControl, split_command
from pointsman_cli.conformance.controls import AdapterControl, RuntimeControl
from pointsman_cli.conformance.errors import ApiError, CannotTest
from pointsman_cli.conformance.findings import Grade
from pointsman_cli.conformance.guard_control import GuardControl
from pointsman_cli.conformance.openai_api import OpenAIApi, open_api
from pointsman_cli.conformance.plan import NAME, SwapPlan, adapters_of, base_model_of
from pointsman_cli.conformance.pointsman_control import PointsmanControl
from pointsman_cli.conformance.report import as_document, print_table
from pointsman_cli.conformance.swap import run_swap_test
from pointsman_cli.data_dir import DataDir
from pointsman_cli.engine_environment import python_path
from pointsman_cli.errors import UsageError, run_interruptibly
from pointsman_cli.options import (
    DEFAULT_DATA_DIR,
    KEY_VARIABLE,
    DataDirOption,
    EnginePythonOption,
    JsonOption,
    KeyEnvOption,
    LoraServerOption,
    api_key,
    lora_server_address,
    print_json,
    web_url,
)

SECRET_VARIABLE = "POINTSMAN_ENGINE_SECRET"
EXIT_CODES = {Grade.FAIL: 1, Grade.UNTESTED: CannotTest.exit_code}


class ControlKind(StrEnum):
    """The values of `--control`: the API or program by which the test loads, replaces and unloads its adapters."""

    VLLM = "vllm"
    SGLANG = "sglang"
    GUARD = "guard"
    POINTSMAN = "pointsman"
    COMMANDS = "commands"


@dataclass(frozen=True, slots=True)
class ControlOptions:
    """The options of `pointsman conformance swap` that say how the test loads and unloads adapters.

    An option that the chosen ControlKind does not need is ignored.
    """

    kind: ControlKind
    lora_server: str
    """The lora-server's address, HOST:PORT; empty for every ControlKind but POINTSMAN."""
    load_command: str
    unload_command: str
    model_form: str


def build_app() -> typer.Typer:
    app = typer.Typer(help="Test engines and fleets that anybody runs.", no_args_is_help=True, rich_markup_mode=None)
    app.callback()(lambda: None)
    app.command()(swap)
    return app


def swap(
    against: Annotated[str, typer.Option(metavar="URL", help="The engine or gateway, without /v1.")],
    control: Annotated[
        ControlKind,
        typer.Option(
            help="What changes adapters: routes of vLLM, SGLang or Pointsman's guard, a lora-server, or commands."
        ),
    ] = ControlKind.VLLM,
    base: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="A folder with the base model's config.json, to make the adapters from."),
    ] = None,
    model: Annotated[str, typer.Option(metavar="NAME", help="The base model; default: the only one.")] = "",
    adapters: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where the adapters are made and served from; default: conformance/ in the data directory.",
            show_default=False,
        ),
    ] = None,
    engine_sees: Annotated[
        str, typer.Option(metavar="PATH", help="The path of that folder at the engine, if it differs.")
    ] = "",
    lora_server: LoraServerOption = "",
    load_command: Annotated[
        str, typer.Option(metavar="COMMAND", help="With --control commands: loads {folder} as {name}.")
    ] = "",
    unload_command: Annotated[str, typer.Option(metavar="COMMAND", help="The same to unload {name}.")] = "",
    model_form: Annotated[
        str, typer.Option(metavar="TEXT", help="The same: what requests name, with {name} or {folder}.")
    ] = "{name}",
    slots: Annotated[
        int, typer.Option(min=0, help="How many adapters the engine holds; if given, one more is loaded.")
    ] = 0,
    load_seconds: Annotated[float, typer.Option(min=1, help="Seconds of concurrent load.")] = 40.0,
    concurrency: Annotated[int, typer.Option(min=4, max=64, help="Requests at once under load.")] = 6,
    max_requests: Annotated[int, typer.Option(min=20, help="Limit of requests.")] = 2000,
    max_minutes: Annotated[float, typer.Option(min=1, help="Limit of time.")] = 10.0,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds after which a request hangs.")] = 120.0,
    restart_command: Annotated[
        str, typer.Option(metavar="COMMAND", help="Restarts the engine; without it, nothing is restarted.")
    ] = "",
    harmful: Annotated[
        bool, typer.Option("--harmful", help="Also try what can stop an engine: NaN weights, vanished folders.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list the models, and say what would be done.")
    ] = False,
    as_json: JsonOption = False,
    key_env: KeyEnvOption = KEY_VARIABLE,
    engine_python: EnginePythonOption = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Load, replace, unload and evict small adapters under load, and check each answer.

    Exit code 0 if nothing failed, 1 if a property failed, 3 if the test or one of its checks cannot be carried out. Use
    it on an engine of your own: it adds load, and adapters under names of its own, which it unloads.
    """
    url = web_url(against)
    folder = (adapters or data_dir / "conformance").absolute()
    shelf = AdapterShelf(folder, engine_sees.rstrip("/") or str(folder))
    chosen = ControlOptions(
        control,
        lora_server_address(lora_server, data_dir) if control is ControlKind.POINTSMAN else "",
        load_command,
        unload_command,
        model_form,
    )
    python = python_path(DataDir.at(data_dir), engine_python)

    async def carry_out() -> None:
        started = time.monotonic()
        opened = open_api(
            url, api_key(key_env), max_requests=max_requests, max_seconds=60 * max_minutes, timeout_seconds=timeout
        )
        async with opened as (api, http):
            models = await _models(api, url)
            plan = SwapPlan(
                url=url,
                control=str(control),
                base_model=base_model_of(models, model),
                other_adapters=adapters_of(models),
                prefix=f"{NAME}-{secrets.token_hex(2)}",
                slots=slots,
                load_seconds=load_seconds,
                concurrency=concurrency,
                max_requests=max_requests,
                max_seconds=60 * max_minutes,
                harmful=harmful,
                restart_command=split_command(restart_command, "--restart-command"),
            )
            plan.check()
            bench = Bench(
                api, _control(chosen, http, shelf, plan.base_model), shelf, plan.base_model, plan.prefix, _say
            )
            if dry_run:
                print_json(plan.as_json()) if as_json else typer.echo("\n".join(plan.lines()))
                return
            typer.echo("\n".join(plan.lines()), err=True)
            if base is not None:
                await make_adapters(shelf, base, plan.base_model, python)
            shelf.versions()  # raises UsageError if there are none
            await run_swap_test(bench, plan)
            document = as_document(plan, bench.findings, await _server_version(http), api.requests, started)
        print_json(document) if as_json else print_table(document)
        if bench.findings.overall in EXIT_CODES:
            raise typer.Exit(EXIT_CODES[bench.findings.overall])

    run_interruptibly(carry_out())


def _say(text: str) -> None:
    typer.echo(f"{text} ...", err=True)


async def _models(api: OpenAIApi, url: str) -> list[dict[str, Any]]:
    try:
        return await api.models()
    except ApiError as error:
        raise CannotTest(f"{url}/v1/models: {error}") from error


async def _server_version(http: httpx.AsyncClient) -> dict[str, Any]:
    """Returns what vLLM's /version says; empty for other servers, or if it does not answer."""
    try:
        response = await http.get("/version", timeout=5)
        found = response.json() if response.status_code == 200 else {}
    except (httpx.HTTPError, ValueError):
        found = {}
    return found if isinstance(found, dict) else {}


def _control(options: ControlOptions, http: httpx.AsyncClient, shelf: AdapterShelf, base_model: str) -> AdapterControl:
    """Raises UsageError if an option or variable that it needs is missing."""
    match options.kind:
        case ControlKind.GUARD:
            secret = os.environ.get(SECRET_VARIABLE, "")
            if not secret:
                raise UsageError(f"--control guard needs the guard's secret in {SECRET_VARIABLE}")
            return GuardControl(http, shelf, secret)
        case ControlKind.POINTSMAN:
            return PointsmanControl(options.lora_server, shelf)
        case ControlKind.COMMANDS:
            if not options.load_command or not options.unload_command:
                raise UsageError("--control commands needs --load-command and --unload-command")
            load = split_command(options.load_command, "--load-command")
            unload = split_command(options.unload_command, "--unload-command")
            return CommandControl(shelf, load, unload, options.model_form)
        case _:
            return RuntimeControl(http, shelf, str(options.kind), base_model)
