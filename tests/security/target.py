"""Starts the services that the security tests attack, prints their addresses as a line of JSON, and runs until stopped.

    make target
    {"http": "127.0.0.1:20101", "grpc": ..., "retriever": ..., "lora_server": ..., "key": "pm_...", "gateway_pid": 4711,
     "tokens": {"read": ..., "write": ..., "admin": ...}, "folder": ...}

The gateway (with keys on), the retriever, the lora-server and Valkey are the real ones, with tokens between them. The
engine is a double that the lora-server starts as if it were vLLM. All addresses are free ports of 127.0.0.1. SIGINT and
SIGTERM stop all of them. So does the end of standard input if that is a pipe, because then the process that started
this one has ended.
"""

import asyncio
import json
import os
import secrets
import signal
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path

from pointsman_embedding.prepare import prepare

from tests.gateway.doubles.config_folder import ConfigFolder
from tests.gateway.doubles.process_gateway import ProcessGateway
from tests.gateway.doubles.process_retriever import ProcessRetriever
from tests.gateway.doubles.processes import Process
from tests.gateway.doubles.tenancy import issue
from tests.gateway.doubles.valkey import Valkey, running_valkey
from tests.lora_server.server_process import ServerProcess
from tests.lora_server.tiny_adapters import write_base

MODEL = Path(__file__).parents[2] / ".pointsman" / "models" / "minilm"
GATEWAY = ("-m", "pointsman_gateway")
STOP_SECONDS = 10.0
"""Time that a service gets to stop before it is killed."""


@dataclass(frozen=True)
class Addresses:
    http: str
    grpc: str
    retriever: str
    lora_server: str
    key: str
    """A key of a tenant without limits."""
    gateway_pid: int
    tokens: dict[str, str]
    """Tokens by role: read, write, admin."""
    folder: str
    """The folder with all state, and with the training data that the lora-server accepts (in `training`)."""


@dataclass
class Services:
    """The processes of the services, each of which can be stopped and started again. All state is below `folder`."""

    folder: Path
    valkey: Valkey
    retriever: ProcessRetriever
    lora_server: ServerProcess
    gateway: ProcessGateway
    tokens: dict[str, str]
    """Tokens by role: read, write, admin."""


@asynccontextmanager
async def running_services(
    folder: Path,
    settings: Mapping[str, object] = {},
    lora_settings: Mapping[str, str] = {},
    *,
    fill: bool = True,
    run_valkey: Callable[[Path], AbstractAsyncContextManager[Valkey]] = running_valkey,
    configure: Callable[[ConfigFolder], None] = lambda config: None,
    program: Sequence[str] = GATEWAY,
) -> AsyncIterator[Services]:
    """Starts the services with the state that is in `folder`; with `fill`, the handbook is written.

    `settings` are further ones of the gateway, and `lora_settings` of the lora-server. `configure` changes the
    gateway's configuration before it is written; `program` are the arguments of Python that run it.
    """
    async with run_valkey(folder / "valkey") as valkey:
        tokens = {role: secrets.token_hex(32) for role in ("read", "write", "admin")}
        file = folder / "tokens"
        file.write_text("".join(f"{role} {role} {token}\n" for role, token in tokens.items()))
        (folder / "gateway-token").write_text(tokens["write"])
        retriever = ProcessRetriever(folder, MODEL, file, tokens["admin"])
        lora_server = _lora_server(folder, valkey, file, tokens["admin"], lora_settings)
        gateway = _gateway(folder, valkey, retriever, lora_server, settings, configure, program)
        try:
            await asyncio.gather(
                _start_retriever(retriever, fill), lora_server.start_with_engine(), gateway.open_clients()
            )
            yield Services(folder, valkey, retriever, lora_server, gateway, tokens)
        finally:
            await asyncio.gather(*[_stop(process) for process in (gateway, lora_server, retriever)])


@asynccontextmanager
async def running_target(folder: Path) -> AsyncIterator[Addresses]:
    """Runs the services with all state below `folder`, and yields their addresses."""
    async with running_services(folder) as services:
        issued = await issue(services.valkey.url, tenant="innocent")
        gateway = services.gateway
        yield Addresses(
            gateway.url.removeprefix("http://"),
            gateway.grpc_address,
            services.retriever.address,
            services.lora_server.address,
            issued.credential.text,
            gateway.pid,
            services.tokens,
            str(folder),
        )


def _lora_server(folder: Path, valkey: Valkey, tokens: Path, token: str, settings: Mapping[str, str]) -> ServerProcess:
    base = write_base(folder / "base")
    roots = folder / "training"
    roots.mkdir()
    more = {"DATA_ROOTS": str(roots), "SERVED_MODEL_NAME": "tiny", "TOKENS": str(tokens), **settings}
    return ServerProcess(folder / "lora-server", base, "local", valkey.url, folder / "store", more=more, token=token)


def _gateway(
    folder: Path,
    valkey: Valkey,
    retriever: ProcessRetriever,
    lora_server: ServerProcess,
    settings: Mapping[str, object],
    configure: Callable[[ConfigFolder], None],
    program: Sequence[str],
) -> ProcessGateway:
    config = ConfigFolder(folder / "config")
    config.models["engines"]["local"]["lora_server"] = lora_server.address
    configure(config)
    given = {
        "config": config.write(),
        "embedding_model": MODEL,
        "retriever": retriever.address,
        "redis_url": valkey.url,
        "wal_dir": folder / "wal",
        "auth": "on",
        "service_token_file": folder / "gateway-token",
    }
    return ProcessGateway(folder, given | dict(settings), program=program)


async def _start_retriever(retriever: ProcessRetriever, fill: bool) -> None:
    await retriever.start()
    if fill:
        await retriever.fill()


async def _stop(process: Process) -> None:
    """Sends SIGTERM, so that the service stops its children, and SIGKILL if it does not exit."""
    if process.pid:
        try:
            process.signal(signal.SIGTERM)
            await process.ended(STOP_SECONDS)
        except (ProcessLookupError, TimeoutError):
            pass
    await process.kill()


def prepare_model() -> None:
    """Downloads and converts the embedding model if it is missing."""
    with redirect_stdout(sys.stderr):
        prepare(MODEL)


async def main() -> None:
    prepare_model()
    os.umask(0o077)
    stopped = asyncio.Event()
    for which in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(which, stopped.set)
    if stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode):
        asyncio.get_running_loop().add_reader(sys.stdin, stopped.set)
    with tempfile.TemporaryDirectory(prefix="pointsman-target-") as folder:
        async with running_target(Path(folder)) as addresses:
            print(json.dumps(asdict(addresses)), flush=True)
            await stopped.wait()


if __name__ == "__main__":
    asyncio.run(main())
