"""Runs the gateway's HTTP and gRPC servers. `--check FOLDER` only checks a configuration; with `--engine NAME` it also
sends requests to that engine. `--catalog FOLDER` only prints a configuration's tasks, paths and prices.
"""

import argparse
import asyncio
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop
from pointsman.envoy import external_processor_pb2_grpc
from pointsman.v1 import gateway_pb2_grpc
from pointsman_embedding import ModelMissing
from pointsman_servicekit import logs
from pointsman_servicekit.buffer_budget import BufferedBytesBudget
from pointsman_servicekit.grpc_server import ServerLimits, serving
from pointsman_servicekit.process import freeze_gc, start_worker_threads, trimming_heap, wait_for_stop_signal
from pointsman_servicekit.setting_names import UnknownSetting
from pointsman_servicekit.setting_values import WrongSetting
from pointsman_servicekit.tls import ServerTls, server_tls
from pointsman_servicekit.tracing.exporting import OtelSettingsError, exporting_spans, tracing_server_interceptors
from pointsman_servicekit.workers import WORKER_OPTION, connect_supervisor
from starlette.types import ASGIApp

from pointsman_gateway import bootstrap
from pointsman_gateway.codec.limits import LIMITS
from pointsman_gateway.config.field_types import ConfigError, must_be_known
from pointsman_gateway.config.load import Config, load_config
from pointsman_gateway.config.up_folders import missing_folders
from pointsman_gateway.engines.engine_check import NO_GUARANTEES, check_engine
from pointsman_gateway.grpc import ext_proc
from pointsman_gateway.grpc.servicer import SERVICE, Authentication, GatewayServicer
from pointsman_gateway.http.app import build_app, build_metrics_app
from pointsman_gateway.http.catalog import catalog_body
from pointsman_gateway.http.connection_limits import ConnectionLimits
from pointsman_gateway.http.dependencies import HttpDependencies
from pointsman_gateway.http.fast_reader import ChatReader
from pointsman_gateway.http.server import serve_http
from pointsman_gateway.pipeline.shutdown import DrainTimes, drain
from pointsman_gateway.settings import PREFIX, Settings, read_settings

if TYPE_CHECKING:
    from pointsman_servicekit.tracing.spans import Spans

log = logging.getLogger(__name__)

MEGABYTE = 1024 * 1024

GRPC_STREAMS = 128
"""Maximum number of concurrent calls on one gRPC connection. The server handles calls in the order of their arrival, so
another client may have to wait until all calls of a connection are rejected: about 20 ms if none of them has a valid
key."""
FLUSH_SECONDS = 2
"""Maximum seconds that the servers get at shutdown, after the last request has ended, to send buffered responses."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m pointsman_gateway", description=__doc__)
    parser.add_argument("--check", type=Path, metavar="FOLDER", help="check a configuration folder and stop")
    parser.add_argument("--catalog", type=Path, metavar="FOLDER", help="print what /v1/tasks would list, and stop")
    parser.add_argument("--engine", metavar="NAME", help="with --check: also send requests to this engine; prints JSON")
    parser.add_argument("--ext-proc", type=int, metavar="PORT", help="also serve Envoy's external processing there")
    parser.add_argument(WORKER_OPTION, nargs=2, type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    folder: Path | None = given.check
    try:
        if folder:
            return asyncio.run(check_engine_of(folder, given.engine)) if given.engine else check(folder)
        if given.catalog:
            return print_catalog(given.catalog)
        if given.ext_proc is not None:
            os.environ.setdefault(f"{PREFIX}EXT_PROC_LISTEN", f"127.0.0.1:{given.ext_proc}")  # its workers inherit it
        settings = read_settings()
        name = f"gateway-{given.worker[0]}" if given.worker else "gateway"
        logs.configure_logging(name, settings.log_level, settings.log_format)
        if settings.workers > 1 and not given.worker:
            _load_checked(settings.config)
            return asyncio.run(bootstrap.supervise(settings))
        with (
            exporting_spans("gateway", os.environ) as spans,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            runner.run(run(settings, spans, given.worker))
    except (ConfigError, ModelMissing, OtelSettingsError, UnknownSetting, WrongSetting, OSError) as error:
        print(f"pointsman_gateway: {error}", file=sys.stderr)
        return 1
    return 0


def _load_checked(folder: Path) -> Config:
    """Loads the configuration in `folder`, checks it without calling other services (for example for missing API keys),
    and returns it.

    Raises ConfigError if it is invalid, OSError if a file cannot be read.
    """
    config = load_config(folder)
    bootstrap.check_config(config)
    bootstrap.check_environment(config)
    return config


def check(folder: Path) -> int:
    config = _load_checked(folder)
    for name, engine in config.models.engines.items():
        if engine.adapters:
            print(
                f"engine '{name}' {'discovers' if engine.discovers_adapters else 'names'} its adapters: {NO_GUARANTEES}"
            )
    problems = list(missing_folders(config.single_file)) if config.single_file else []
    for problem in problems:
        print(problem)
    verdict = "well for a gateway alone; see above what `pointsman up` needs" if problems else "all well"
    print(f"{folder}: {len(config.paths.paths)} paths, {len(config.tasks.tasks)} tasks, {verdict}")
    return 0


def print_catalog(folder: Path) -> int:
    """Prints the tasks, paths and prices of the configuration in `folder` as JSON; returns 0, the exit status.

    It needs no running engine, no embedding model and no secret, so it names the adapters as they are configured.
    Raises ConfigError if the configuration is invalid, OSError if a file cannot be read.
    """
    config = load_config(folder)
    bootstrap.check_config(config)
    catalog = bootstrap.to_catalog(config)
    today = datetime.now(UTC).date()
    body = catalog_body(catalog, config.revision, lambda path: (path.adapter,) if path.adapter else (), today)
    print(json.dumps(body))
    return 0


async def check_engine_of(folder: Path, name: str) -> int:
    """Sends requests to the engine `name` of the configuration in `folder`, and prints each finding as a line of JSON.

    Returns the exit status: 1 if a finding has the level "fail", otherwise 0. Raises ConfigError if the configuration
    is invalid or has no such engine, or if the engine has a lora-server, is a group, is called through LiteLLM's SDK,
    or lacks its API key in the environment; OSError if a file cannot be read.
    """
    config = load_config(folder)
    engines = config.models.engines
    must_be_known("there is no engine", name, engines)
    settings = engines[name]
    if settings.lora_server or settings.group:
        raise ConfigError(f"engine '{name}' is a group or has a lora_server; name a single engine that has a url")
    if settings.uses_litellm:
        raise ConfigError(f"engine '{name}' is called by LiteLLM's SDK, so it cannot be checked; send a path a request")
    needed = {path.adapter for path in config.paths.paths.values() if path.adapter and path.model == settings.model}
    timeouts, failed = config.models.timeouts_of(name), False
    engine = bootstrap.to_engine(name, settings)
    async for finding in check_engine(engine, timeouts, discovers=settings.discovers_adapters, adapters=needed):
        failed |= finding.level == "fail"
        print(json.dumps(asdict(finding)), flush=True)
    return 1 if failed else 0


async def run(settings: Settings, spans: "Spans | None" = None, worker: Sequence[int] | None = None) -> None:
    """Runs the HTTP and gRPC servers until SIGINT or SIGTERM, then waits for requests in progress.

    Requests still in progress after `settings.shutdown_timeout` seconds are aborted. `worker` is None if there is only
    one gateway process; if there are several, it has this process's number and the file descriptor of a connection to
    the supervisor. Raises ConfigError if the configuration is invalid, ModelMissing or TlsError (both are OSErrors), or
    another OSError, for example if a port is in use.
    """
    supervisor, is_worker = (await connect_supervisor(worker[1]) if worker else None), bool(worker)
    config = _load_checked(settings.config)
    tls = server_tls(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
    budget = BufferedBytesBudget(settings.buffer_megabytes * MEGABYTE)
    await start_worker_threads()
    async with bootstrap.build_gateway(settings, config, spans) as components:
        dependencies = HttpDependencies(
            components.pipeline,
            components.tenancy,
            components.feedback,
            components.persistence.evaluations,
            components.reloader,
            components.registry,
            settings.request_timeout,
            budget,
            components.console if settings.console == "on" else None,
            bool(settings.metrics_listen),
            settings.origins,
            siblings := bootstrap.Siblings(supervisor, components) if supervisor else None,
            lambda: components.tenancy.single_sign_on,
            components.administration,
        )
        app = build_app(dependencies, spans)
        stopping = asyncio.create_task(wait_for_stop_signal())
        await asyncio.sleep(0)  # it listens from its first turn on, before the servers start: no signal is missed
        servicer = GatewayServicer(
            components.pipeline, components.feedback, settings.request_timeout, components.reloader
        )
        async with (
            serving(
                settings.grpc_listen,
                [SERVICE],
                lambda server: gateway_pb2_grpc.add_GatewayServicer_to_server(servicer, server),
                grace=FLUSH_SECONDS,
                limits=ServerLimits(
                    max_message_bytes=LIMITS.max_bytes,
                    max_message_fields=LIMITS.max_fields,
                    max_connections=components.capacity.grpc_connections,
                    max_concurrent_streams=GRPC_STREAMS,
                    max_connection_age=settings.grpc_max_connection_age,
                ),
                tls=tls,
                interceptors=tracing_server_interceptors(spans),
                gate=Authentication(components.pipeline, components.tenancy),
                budget=budget,
                reuse_port=is_worker,
            ) as grpc_server,
            serve_http(
                app,
                settings.http_listen,
                grace=FLUSH_SECONDS,
                limits=ConnectionLimits(max_connections=components.capacity.http_connections),
                tls=tls,
                chat_reader=ChatReader(dependencies) if spans is None else None,  # it records no spans
                reuse_port=is_worker,
            ) as http_address,
            _serving_metrics(dependencies, settings.metrics_listen),
            _serving_ext_proc(app, settings, tls, reuse_port=is_worker) as ext_proc_address,
            trimming_heap(),
        ):
            freeze_gc()
            if siblings:
                await siblings.report_serving()
            log.info("HTTP on %s, gRPC on %s", http_address, grpc_server.address)
            if ext_proc_address:
                log.info("external processing on %s", ext_proc_address)
            stopped_by = await stopping
            times = DrainTimes(settings.shutdown_delay, settings.shutdown_timeout)
            pipeline = components.pipeline
            if not await drain(pipeline.admission, stopped_by, times, lambda: grpc_server.set_serving(False)):
                pipeline.active_runs.shut_down()


def _serving_metrics(dependencies: HttpDependencies, listen: str) -> AbstractAsyncContextManager[str]:
    """Returns a context manager that serves metrics at `listen` (HOST:PORT), or does nothing if `listen` is empty.

    Entering the context manager raises OSError if the port cannot be bound.
    """
    if not listen:
        return nullcontext("")
    reuse_port = dependencies.workers is not None
    return serve_http(build_metrics_app(dependencies), listen, grace=FLUSH_SECONDS, reuse_port=reuse_port)


@asynccontextmanager
async def _serving_ext_proc(
    app: ASGIApp, settings: Settings, tls: ServerTls | None, *, reuse_port: bool
) -> AsyncIterator[str]:
    """A context manager that serves Envoy's external processing at `settings.ext_proc_listen`, and yields the server's
    address.

    If the setting is empty, nothing is served, and the address is an empty text. Entering the context manager raises
    OSError if the port cannot be bound.
    """
    if not settings.ext_proc_listen:
        yield ""
        return
    processor = ext_proc.ExternalProcessor(app)
    async with serving(
        settings.ext_proc_listen,
        [ext_proc.SERVICE],
        lambda server: external_processor_pb2_grpc.add_ExternalProcessorServicer_to_server(processor, server),
        grace=FLUSH_SECONDS,
        tls=tls,
        reuse_port=reuse_port,
    ) as server:
        yield server.address


if __name__ == "__main__":
    sys.exit(main())
