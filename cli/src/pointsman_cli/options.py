"""Options that several commands share, their default values, and functions that print JSON and tables.

The default address of a service is the one that the running `pointsman up` uses, else the service's usual port on this
machine.
"""

import getpass
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import httpx
import typer
from rich.console import Console
from rich.table import Table

from pointsman_cli.data_dir import DataDir, find_run, read_run
from pointsman_cli.errors import UsageError
from pointsman_cli.optional import optional
from pointsman_cli.tables import UNLIMITED

DEFAULT_DATA_DIR = Path(".pointsman")
DEFAULT_HTTP = "127.0.0.1:8080"
DEFAULT_URL = f"http://{DEFAULT_HTTP}"
DEFAULT_GRPC = "127.0.0.1:8081"
DEFAULT_RETRIEVER = "127.0.0.1:8082"
DEFAULT_LORA_SERVER = "127.0.0.1:8083"
KEY_VARIABLE = "POINTSMAN_API_KEY"

DataDirOption = Annotated[
    Path, typer.Option("--data-dir", metavar="DIR", help="The folder for models, state and logs; created if missing.")
]
EnginePythonOption = Annotated[
    Path | None,
    optional(
        "FILE",
        "The Python of the engine's environment; default: POINTSMAN_ENGINE_PYTHON, then the .venv-engine next to "
        "the data directory.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
UrlOption = Annotated[str, optional("URL", f"The gateway; default: the running `pointsman up`, then {DEFAULT_URL}.")]
KeyEnvOption = Annotated[
    str, typer.Option(metavar="NAME", help="The environment variable that holds the API key, if the gateway needs one.")
]
LoraServerOption = Annotated[
    str, optional("HOST:PORT", f"The lora-server; default: the running `pointsman up`, then {DEFAULT_LORA_SERVER}.")
]
RunningLoraServerOption = Annotated[
    str, optional("HOST:PORT", "The lora-server; default: the running `pointsman up`.", "--lora-server")
]
RetrieverOption = Annotated[
    str, optional("HOST:PORT", f"The retriever; default: the running `pointsman up`, then {DEFAULT_RETRIEVER}.")
]
TenantOption = Annotated[str, typer.Option(metavar="NAME", help="The tenant that owns the collection.")]
RedisOption = Annotated[str, optional("URL", "Redis; default: the running `pointsman up`.")]
RecordsOption = Annotated[
    str, optional("FOLDER|URL", "Read the exporter's Parquet files at its target, not Redis.", "--from")
]
AuthorOption = Annotated[str, optional("NAME", "Who makes the change, for the history; default: your user name.")]

AdapterArgument = Annotated[
    str, typer.Argument(metavar="[NAME]", help="The adapter; default: all.", show_default=False)
]
VersionArgument = Annotated[
    str, typer.Argument(metavar="VERSION", help="As `adapters list` shows it: triage@3f9a1c0b77de.")
]
AliasArgument = Annotated[str, typer.Argument(metavar="ALIAS", help="As in triage@prod.")]
IfVersionOption = Annotated[str, optional("VERSION", "Only if the alias points to this version now (compare-and-set).")]


def print_json(content: Any) -> None:
    """Prints the content as indented JSON on standard output."""
    typer.echo(json.dumps(content, indent=2, ensure_ascii=False))


def gateway_url(given: str, data_dir: Path) -> str:
    """Returns the base URL of the gateway: `given`, or if empty that of the running `pointsman up`, or DEFAULT_URL.

    Raises UsageError if `given` is not a URL (see `web_url`), or run.json cannot be opened.
    """
    if given:
        return web_url(given)
    running = read_run(DataDir.at(data_dir).run_file)
    return running.http if running else DEFAULT_URL


def gateway_grpc_address(given: str, data_dir: Path) -> str:
    if given:
        return given.removeprefix("http://").rstrip("/")
    running = read_run(DataDir.at(data_dir).run_file)
    return running.grpc if running else DEFAULT_GRPC


def _running_address(name: str, address: str) -> str:
    if not address:
        raise UsageError(f"the running `pointsman up` has no {name}; name one with its option if it is elsewhere")
    return address


def lora_server_address(given: str, data_dir: Path) -> str:
    running = find_run(data_dir)
    return given or _running_address("lora-server", running.lora_server if running else DEFAULT_LORA_SERVER)


def retriever_address(given: str, data_dir: Path) -> str:
    running = find_run(data_dir)
    return given or _running_address("retriever", running.retriever if running else DEFAULT_RETRIEVER)


def redis_url(given: str, data_dir: DataDir) -> str:
    """Returns `given`, or if `given` is empty, the Redis URL of the running `pointsman up`; empty if nothing runs.

    Raises UsageError if run.json cannot be opened, even if `given` is not empty.
    """
    running = read_run(data_dir.run_file)
    return given or (running.redis_url if running else "")


def log_arguments(redis: str, records: str, data_dir: DataDir) -> list[str]:
    """Returns the options that tell a command of `pointsman_lab` where the gateway's request log is; [] if unknown.

    They are ["--redis", URL] or ["--from", RECORDS]. The URL is that of the running `pointsman up` if `redis` and
    `records` are empty. Raises UsageError if both are given, or run.json cannot be opened.
    """
    if records:
        if redis:
            raise UsageError("give --redis or --from, not both")
        return ["--from", records if "://" in records else str(Path(records).absolute())]
    url = redis_url(redis, data_dir)
    return ["--redis", url] if url else []


def api_key(variable: str) -> str:
    """Returns the API key in the environment variable named `variable`, or "" if no key is to be sent.

    No key is sent if `variable` is empty, or if it is KEY_VARIABLE (the default) and this variable is not set. Raises
    UsageError if any other variable is empty or not set.
    """
    key = os.environ.get(variable, "") if variable else ""
    if not key and variable not in ("", KEY_VARIABLE):
        raise UsageError(f"the environment variable {variable} holds no key; set it, or leave --key-env out")
    return key


def bearer(key: str) -> dict[str, str]:
    """Returns the HTTP headers {"authorization": "Bearer KEY"} for an API key; an empty mapping if `key` is empty."""
    return {"authorization": f"Bearer {key}"} if key else {}


def author_name(given: str) -> str:
    """Returns `given`, or if it is empty, the login name of this process's user; "" if the system knows none."""
    try:
        return given or getpass.getuser()
    except (OSError, KeyError):
        return ""


def web_url(given: str) -> str:
    """Returns `given` as an HTTP URL: adds `http://` if it has no scheme, and removes slashes at its end.

    Raises UsageError if it is not an http:// or https:// URL with a host.
    """
    url = (given if "://" in given else f"http://{given}").rstrip("/")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and httpx.URL(url).host
        problem = "" if usable else "it must have http:// or https:// and a host"
    except (ValueError, httpx.InvalidURL) as error:
        problem = str(error)
    if problem:
        raise UsageError(f"'{given}' is not a URL ({problem}); it should be like http://127.0.0.1:8080")
    return url


def plain_table(*left: str, right: Sequence[str] = (), gap: int = 2) -> Table:
    """Returns an empty table without lines; `left` and `right` name its columns, in this order.

    The columns `left` wrap long texts. The columns `right` are right-aligned and never wrap. `gap` is the number of
    spaces between columns.
    """
    table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False, header_style="dim")
    for name in left:
        table.add_column(name, overflow="fold", vertical="bottom")
    for name in right:
        table.add_column(name, justify="right", no_wrap=True, vertical="bottom")
    return table


def table_console() -> Console:
    """Returns a console on standard output for tables, at least 100 columns wide; in a pipe each row is one line."""
    console = Console(highlight=False)
    console.width = max(console.width, 100) if console.is_terminal else UNLIMITED
    return console
