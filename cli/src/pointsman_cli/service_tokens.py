"""The tokens of the services that `pointsman up` starts, and which one a command sends to which address.

`up` writes four files into the data directory's tokens/, readable by their owner alone: retriever and lora-server list
the peers that each service accepts, gateway and cli contain one token each. A command sends the cli's token only to
addresses in the data directory's run.json, and to all other services the one in the file that
POINTSMAN_CLIENT_TOKEN_FILE names.
"""

import os
import secrets
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from pathlib import Path

from pointsman_servicekit.grpc_client import Token
from pointsman_servicekit.service_tokens import TokenFileError, open_token

from pointsman_cli.data_dir import DataDir, Run, read_run
from pointsman_cli.errors import CommandError

TOKEN_FILE_VARIABLE = "POINTSMAN_CLIENT_TOKEN_FILE"
_TOKEN_BYTES = 32

_files_by_address: ContextVar[Mapping[str, Path]] = ContextVar("files_by_address")
"""The token files for the services of this machine's `pointsman up`."""


def write_tokens(data_dir: DataDir) -> None:
    """Writes the files if one of them is missing, else keeps all: lines that a user has added stay.

    The gateway is an admin of the lora-server, since operators move aliases through its console, and only reads from
    the retriever.
    """
    files = (
        data_dir.token("cli"),
        data_dir.token("gateway"),
        data_dir.token("retriever"),
        data_dir.token("lora-server"),
    )
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
    """Sends the data directory's token to these addresses from now on, and to no others."""
    file = data_dir.token("cli")
    _files_by_address.set(dict.fromkeys(addresses, file) if file.exists() else {})


def find_run(data_dir: Path) -> Run | None:
    """As `read_run`, and lets this command authenticate to the services that run."""
    at = DataDir.at(data_dir)
    run = read_run(at.run_file)
    authenticate_to([address for address in (run.retriever, run.lora_server) if address] if run else (), at)
    return run


def token_for(address: str) -> Token | None:
    """The token for the service at `address`; None if there is none. Raises CommandError if its file is not usable."""
    named = os.environ.get(TOKEN_FILE_VARIABLE)
    file = _files_by_address.get({}).get(address) or (Path(named) if named else None)
    try:
        return open_token(file)
    except TokenFileError as error:
        raise CommandError(f"the token for {address}: {error}") from error
