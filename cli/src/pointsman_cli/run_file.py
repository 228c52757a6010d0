"""`run.json`: what `pointsman up` has running, for the other commands, for tests and for the demo."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from pointsman_cli.errors import Misused


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
    retriever: str
    lora_server: str
    engine: str  # "http://127.0.0.1:8101"
    redis_url: str
    gateway_metrics: str
    retriever_metrics: str
    lora_server_metrics: str
    processes: dict[str, RunningProcess]


def write(run: Run, path: Path) -> None:
    """Puts the whole file in place at once."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(asdict(run), indent=2) + "\n")
    unfinished.replace(path)


def read(path: Path) -> Run | None:
    """What runs now; None where nothing does, or where the `up` that wrote the file is dead. Raises Misused."""
    try:
        found = json.loads(path.read_text())
        processes = {name: RunningProcess(**process) for name, process in found.pop("processes").items()}
        run = Run(**found, processes=processes)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None  # of another version, and so of another run
    except OSError as error:
        raise Misused(
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
