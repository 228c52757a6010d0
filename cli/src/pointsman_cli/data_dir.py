"""The data directory of one machine (`.pointsman`): models, state, logs, run.json, and the services' tokens.

run.json describes the running `pointsman up`, which writes the file: its services, their addresses and process ids. The
other commands, the tests and the demo read it.

`up` writes four files into tokens/, readable by their owner alone: retriever and lora-server list the peers that each
service accepts, gateway and cli contain one token each. A command sends the token in the file cli only to addresses in
the data directory's run.json. To other services it sends the token in the file that POINTSMAN_CLIENT_TOKEN_FILE names,
if that variable is set.
"""

import json
import os
import secrets
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path

from pointsman_servicekit.grpc_client import Token
from pointsman_servicekit.service_tokens import TokenFileError, open_token

from pointsman_cli.errors import CommandError, UsageError

EMBEDDING_MODEL = "minilm"
PRIVATE_UMASK = 0o077  # new files get mode 0600, new folders 0700

TOKEN_FILE_VARIABLE = "POINTSMAN_CLIENT_TOKEN_FILE"
_TOKEN_BYTES = 32

_files_by_address: ContextVar[Mapping[str, Path]] = ContextVar("files_by_address")
"""The token file for each service of this machine's `pointsman up`, by the service's address ("127.0.0.1:8082")."""


class DataDir:
    """The paths of the files and folders in a data directory, which need not exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.adapters = folder / "adapters"
        self.fetched_adapters = folder / "adapters-fetched"
        """The folder in which the lora-server caches adapters that it fetches from object storage."""
        self.jobs = folder / "jobs"
        """The folder that has one folder for each training job."""
        self.retriever = folder / "retriever"
        self.valkey = folder / "valkey"
        self.wal = folder / "wal"
        self.run_file = folder / "run.json"
        self.lock_file = folder / "up.lock"
        self.embedding_model = self.model(EMBEDDING_MODEL)

    @classmethod
    def at(cls, folder: Path) -> "DataDir":
        return cls(folder.absolute())

    def model(self, name: str) -> Path:
        return self.folder / "models" / name

    def token(self, name: str) -> Path:
        """Returns the path of a token file.

        With `name` "cli" or "gateway", the file contains the token that this client sends. With `name` "retriever" or
        "lora-server", the file lists the tokens that this service accepts.
        """
        return self.folder / "tokens" / name

    def log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"


@dataclass(frozen=True, slots=True)
class RunningProcess:
    """A service that `pointsman up` has started: its process id, its address, and the path of its log.

    The address is "HOST:PORT", or the path of a Unix socket.
    """

    pid: int
    address: str
    log: str


@dataclass(frozen=True, slots=True)
class Run:
    """A running `pointsman up`, as run.json describes it: its process id, and its services' addresses and processes.

    The address of a service that does not run is empty.
    """

    pid: int  # of `pointsman up` itself
    example: str
    http: str  # "http://127.0.0.1:8080"
    grpc: str  # "127.0.0.1:8081"
    retriever: str  # empty: none runs, as for all addresses below
    lora_server: str
    engine: str  # "http://127.0.0.1:8101"
    redis_url: str
    gateway_metrics: str
    retriever_metrics: str
    lora_server_metrics: str
    processes: dict[str, RunningProcess]


def write_run(run: Run, path: Path) -> None:
    """Writes run.json atomically; raises OSError if it cannot be written."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(asdict(run), indent=2) + "\n")
    unfinished.replace(path)


def read_run(path: Path) -> Run | None:
    """Returns the running `pointsman up` that a run.json describes.

    Returns None if there is no file, its content is not as expected, or the process has ended. Raises UsageError if
    the file exists and cannot be opened.
    """
    try:
        found = json.loads(path.read_text())
        processes = {name: RunningProcess(**process) for name, process in found.pop("processes").items()}
        run = Run(**found, processes=processes)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None  # written by another release, so by another run
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}; `pointsman up` keeps a file there: remove what is there now, or "
            "name another folder with --data-dir"
        ) from error
    return run if is_alive(run.pid) else None


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def make_private(folder: Path) -> None:
    """Creates a folder, or changes an existing one, so that only its owner can read it.

    Also sets the umask of this process, which child processes inherit, so that only the owner can read files and
    folders that they create later. Raises OSError if the folder cannot be created or changed.
    """
    os.umask(PRIVATE_UMASK)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)  # an existing folder may be readable to others


def write_tokens(data_dir: DataDir) -> None:
    """Writes all token files with new random tokens if one of the files is missing. If all exist, they are not changed.

    The command line gets the role `admin` at the lora-server and the retriever. The gateway gets `admin` at the
    lora-server, since operators move aliases in the gateway's console, and `read` at the retriever. Raises OSError if a
    file cannot be written.
    """
    files = [data_dir.token(name) for name in ("cli", "gateway", "retriever", "lora-server")]
    if all(file.exists() for file in files):
        return
    cli, gateway = (secrets.token_hex(_TOKEN_BYTES) for _ in range(2))
    peers = f"# NAME ROLE TOKEN\ncli admin {cli}\ngateway {{role}} {gateway}\n"
    contents = (cli, gateway, peers.format(role="read"), peers.format(role="admin"))
    files[0].parent.mkdir(mode=0o700, exist_ok=True)
    for file, content in zip(files, contents, strict=True):
        _write_private(file, content)


def _write_private(file: Path, content: str) -> None:
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(content)
    unfinished.replace(file)


def authenticate_to(addresses: Iterable[str], data_dir: DataDir) -> None:
    """Makes `token_for` return the token in this data directory's file `cli` for services at `addresses`
    ("127.0.0.1:8082").

    For other addresses, and if the file `cli` does not exist, `token_for` then returns the token in the file that
    POINTSMAN_CLIENT_TOKEN_FILE names, or None if the variable is not set. Applies to the current context (of
    `contextvars`) only.
    """
    file = data_dir.token("cli")
    _files_by_address.set(dict.fromkeys(addresses, file) if file.exists() else {})


def find_run(data_dir: Path) -> Run | None:
    """Returns the running `pointsman up` of a data directory, or None; sets the tokens to send to its services.

    The tokens are set by `authenticate_to`. Raises UsageError if the directory's run.json cannot be opened.
    """
    at = DataDir.at(data_dir)
    run = read_run(at.run_file)
    authenticate_to([address for address in (run.retriever, run.lora_server) if address] if run else (), at)
    return run


def token_file_for(address: str) -> Path | None:
    named = os.environ.get(TOKEN_FILE_VARIABLE)
    return _files_by_address.get({}).get(address) or (Path(named) if named else None)


def token_for(address: str) -> Token | None:
    """Returns a function that returns the access token to send to `address` ("HOST:PORT"); None if there is no token.

    The token is the one that `authenticate_to` set for the address, else the one in the file that
    POINTSMAN_CLIENT_TOKEN_FILE names. Raises CommandError if the token file cannot be read, or its token is not valid.
    """
    try:
        return open_token(token_file_for(address))
    except TokenFileError as error:
        raise CommandError(f"the token for {address}: {error}") from error
