"""Starts the services of `pointsman up`, each after those that it needs, and prints the progress and a summary."""

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from pointsman_servicekit.errors import PointsmanError
from rich.console import Console
from rich.markup import escape

from pointsman_cli.data_dir import DataDir, Run, authenticate_to, write_tokens
from pointsman_cli.engine_environment import BUILT_IN, EngineEnvironment, prepare_base_model, prepare_embedding_model
from pointsman_cli.errors import CommandError
from pointsman_cli.example import Example
from pointsman_cli.grpc_clients import list_registered, register_adapter
from pointsman_cli.ingest import DEFAULT_TENANT, MAX_PROBLEMS_SHOWN, IngestTarget, send_sources, skipped_text
from pointsman_cli.options import KEY_VARIABLE
from pointsman_cli.processes import run_to_end
from pointsman_cli.sources import Source, find_sources
from pointsman_cli.tables import print_table
from pointsman_cli.up.plan import Addresses, Service, UpPlan, prepare_folders
from pointsman_cli.up.prometheus import PROMETHEUS, wait_for_prometheus, write_configuration
from pointsman_cli.up.readiness import CALL_SECONDS, wait_for_engine, wait_for_http, wait_for_valkey, wait_until_serving
from pointsman_cli.up.supervisor import Supervisor


class StartupOutput:
    """Prints the steps that `pointsman up` takes while it starts, with their durations."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def step(self, name: str) -> Iterator[Callable[[str], None]]:
        """Shows that the step `name` of the start is running; yields a function that shows a status message.

        Shows the step's duration if the block ends without an error.
        """
        began = time.monotonic()
        if not self._console.is_terminal:
            self.say(f"{name} ...")
            yield _once_each(lambda detail: self.say(f"{name}: {detail}"))
        else:
            with self._console.status(escape(name)) as status:
                yield lambda detail: status.update(f"{escape(name)} [dim]{escape(detail)}[/dim]")
        self._console.print(f"[green]ok[/green] {escape(name)} [dim]{time.monotonic() - began:.1f} s[/dim]")

    def summary(self, run: Run, adapters: Sequence[str]) -> None:
        rows = [(name, str(process.pid), process.address, process.log) for name, process in run.processes.items()]
        if run.engine:
            rows.append(("engine", "", run.engine, ""))
        self._console.print()
        print_table(("process", "pid", "address", "log"), rows, right=("pid",), console=self._console)
        self.say(f"\nadapters: {', '.join(adapters) or 'none'}" if run.lora_server else "")
        self.say(f"HTTP (OpenAI's API): {run.http}/v1   gRPC: {run.grpc}")
        self.say(f"console: {run.http}/console")
        if prometheus := run.processes.get(PROMETHEUS):
            self.say(f"Prometheus: http://{prometheus.address}")
        self.say("")
        needs_key = os.environ.get("POINTSMAN_GATEWAY_AUTH") == "on"
        if needs_key:
            self.say(f"keys are on: `pointsman keys create` makes one; ask and curl read it from {KEY_VARIABLE}")
        self.say(example_curl(run.http, needs_key=needs_key))
        self.say('\nor: pointsman ask "..."   pointsman route "..."   Stop with Ctrl-C.')


def _once_each(say: Callable[[str], None]) -> Callable[[str], None]:
    printed: set[str] = set()

    def say_new(line: str) -> None:
        if line not in printed:
            printed.add(line)
            say(line)

    return say_new


def example_curl(url: str, *, needs_key: bool) -> str:
    """Returns a `curl` command that asks the gateway at the base URL `url`, with the header for a key if needed."""
    body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "Hello"}]})
    key = f' -H "Authorization: Bearer ${KEY_VARIABLE}"' if needs_key else ""
    return f"curl -i {url}/v1/chat/completions{key} -H 'Content-Type: application/json' -d '{body}'"


@dataclass(frozen=True, slots=True)
class StartPlan:
    """The decisions of `pointsman up` before it starts the first process: example, addresses, services, Python paths.

    `engine` is None if no inference engine is started.
    """

    example: Example
    data_dir: DataDir
    engine: EngineEnvironment | None  # None: no engine is started
    python: str  # of the services' environment
    addresses: Addresses
    plan: UpPlan


async def start_all(setup: StartPlan, supervisor: Supervisor, screen: StartupOutput) -> Sequence[str]:
    """Starts all services, ingests the example's collections and registers its adapters.

    Returns a text for each adapter version that the lora-server then has, such as "triage@3f9a1c0b77de (triage@prod)".
    Raises CommandError if the configuration is invalid, a model cannot be prepared, a service does not start, or a
    document fails; PointsmanError if a service rejects a call; OSError if a file cannot be written. Services that have
    started by then keep running until the caller stops `supervisor`.
    """
    sources = {name: find_sources([folder]) for name, folder in setup.example.collections.items()}
    plan = setup.plan
    await asyncio.gather(_check_configuration(plan.gateway, setup.example), _prepare_models(setup, screen))
    for service in plan.in_order:
        _rotate_log(service)
    prepare_folders(setup.data_dir)
    write_tokens(setup.data_dir)
    services = [address for address in (setup.addresses.retriever, setup.addresses.lora_server) if address]
    authenticate_to(services, setup.data_dir)
    with screen.step("valkey"):
        await supervisor.start(plan.valkey)
        await supervisor.unless_one_dies(wait_for_valkey(plan.valkey.address))
    for needed in (plan.retriever, plan.lora_server, plan.gateway):  # the engine takes longest, so it starts first
        if needed is not None:
            await supervisor.start(needed)
    if plan.retriever is not None:
        await _fill_retriever(plan.retriever.address, sources, supervisor, screen)
    if plan.lora_server is not None:
        await _fill_engine(plan.lora_server.address, setup.example, supervisor, screen)
    with screen.step("gateway"):
        await supervisor.unless_one_dies(wait_until_serving(plan.gateway_grpc, "gateway"))
        await supervisor.unless_one_dies(wait_for_http(f"http://{plan.gateway.address}"))
    if plan.prometheus is not None:
        write_configuration(setup.data_dir, setup.addresses)
        with screen.step(PROMETHEUS):
            await supervisor.start(plan.prometheus)
            await supervisor.unless_one_dies(wait_for_prometheus(plan.prometheus.address))
    if plan.lora_server is None:
        return []
    return [str(adapter) for adapter in await list_registered(plan.lora_server.address)]


async def _fill_retriever(
    address: str, collections: Mapping[str, list[Source]], supervisor: Supervisor, screen: StartupOutput
) -> None:
    with screen.step("retriever"):
        await supervisor.unless_one_dies(wait_until_serving(address, "retriever"))
    for collection, sources in collections.items():
        with screen.step(f"collection {collection}") as say:
            await supervisor.unless_one_dies(_ingest_collection(address, collection, sources, say))


async def _fill_engine(address: str, example: Example, supervisor: Supervisor, screen: StartupOutput) -> None:
    with screen.step("lora-server"):
        await supervisor.unless_one_dies(wait_until_serving(address, "lora-server"))
    with screen.step("engine") as say:
        await supervisor.unless_one_dies(_begin_checks(address, example))
        await supervisor.unless_one_dies(wait_for_engine(address, say))
    for adapter in example.adapters:
        with screen.step(f"adapter {adapter.name}@{adapter.alias}"):
            await supervisor.unless_one_dies(register_adapter(address, adapter, {}))


async def _begin_checks(address: str, example: Example) -> None:
    """Sends registrations while the engine starts, so that the lora-server tests the adapters with PEFT meanwhile.

    Errors of these calls are ignored: without an engine they fail, and the registrations that follow report real
    problems.
    """
    for adapter in example.adapters:
        with suppress(PointsmanError, TimeoutError):
            async with asyncio.timeout(CALL_SECONDS):  # what has begun goes on
                await register_adapter(address, adapter, {})


async def _check_configuration(gateway: Service, example: Example) -> None:
    """Checks the configuration by a gateway process (`--check`); raises CommandError if it is invalid."""
    end = await run_to_end([*gateway.program, "--check", str(example.config)], gateway.environment, lambda line: None)
    if end.code != 0:
        raise CommandError(f"the configuration is not valid: {end.reason.removeprefix('pointsman_gateway: ')}")


async def _prepare_models(setup: StartPlan, screen: StartupOutput) -> None:
    name = setup.example.base_model
    if setup.engine is not None and name == BUILT_IN:
        with screen.step(f"base model {name}") as say:
            await prepare_base_model(name, setup.data_dir, setup.engine, say)
    if setup.example.needs_embedding_model:
        with screen.step("embedding model") as say:
            await prepare_embedding_model(setup.python, setup.data_dir, say)


async def _ingest_collection(address: str, collection: str, sources: list[Source], say: Callable[[str], None]) -> None:
    """Synchronizes the collection with its folder, as `pointsman ingest` does; `say` gets the progress.

    Raises CommandError if a document fails; otherwise raises as `send_sources` does.
    """
    files = sum(len(source.files) for source in sources)
    target = IngestTarget(address, DEFAULT_TENANT, collection)
    counts = await send_sources(target, sources, True, lambda sent: say(f"{sent.answered} of {files} files"))
    if skipped := skipped_text(sources):
        say(skipped)
    if counts.problems:
        shown = "; ".join(counts.problems[:MAX_PROBLEMS_SHOWN])
        raise CommandError(f"collection {collection}: {len(counts.problems)} documents were not ingested: {shown}")


def _rotate_log(service: Service) -> None:
    """Renames the log of a service's previous run to `.log.1`, which replaces the log of the run before that."""
    if service.log.exists():
        service.log.replace(service.log.with_suffix(".log.1"))
