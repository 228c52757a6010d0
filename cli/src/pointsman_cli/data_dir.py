"""The data directory of one machine (`.pointsman`): models, state, logs, and run.json, which describes what runs.

run.json is written by `pointsman up` and read by the other commands, the tests and the demo.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from pointsman_cli.errors import UsageError

EMBEDDING_MODEL = "minilm"
PRIVATE_UMASK = 0o077  # new files get mode 0600, new folders 0700


@dataclass(frozen=True, slots=True)
class DataDir:
    folder: Path

    @classmethod
    def at(cls, folder: Path) -> "DataDir":
        return cls(folder.absolute())

    def model(self, name: str) -> Path:
        return self.folder / "models" / name

    @property
    def embedding_model(self) -> Path:
        return self.model(EMBEDDING_MODEL)

    @property
    def adapters(self) -> Path:
        return self.folder / "adapters"

    @property
    def fetched_adapters(self) -> Path:
        """Copies of adapters from a remote store."""
        return self.folder / "adapters-fetched"

    @property
    def jobs(self) -> Path:
        """Folders of training jobs."""
        return self.folder / "jobs"

    @property
    def retriever(self) -> Path:
        return self.folder / "retriever"

    @property
    def valkey(self) -> Path:
        return self.folder / "valkey"

    @property
    def wal(self) -> Path:
        return self.folder / "wal"

    def token(self, name: str) -> Path:
        """A file of tokens; see `service_tokens`."""
        return self.folder / "tokens" / name

    def log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    @property
    def run_file(self) -> Path:
        return self.folder / "run.json"

    @property
    def lock_file(self) -> Path:
        return self.folder / "up.lock"


@dataclass(frozen=True, slots=True)
class RunningProcess:
    pid: int
    address: str
    log: str


@dataclass(frozen=True, slots=True)
class Run:
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
    """Replaces the file atomically."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(asdict(run), indent=2) + "\n")
    unfinished.replace(path)


def read_run(path: Path) -> Run | None:
    """Returns what runs now; None if nothing runs or the `up` that wrote the file is dead.

    Raises UsageError if the file cannot be read.
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
    """Creates a folder that only its owner can read, and sets the umask so for everything written from now on.

    The data directory holds prompts, answers and keys. The umask also applies to child processes. Raises OSError.
    """
    os.umask(PRIVATE_UMASK)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)  # an existing folder may be readable to others
