"""`pointsman doctor --security`: finds what others can access in a running deployment, by network and by files."""

import ipaddress
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from pointsman_servicekit.http_client import open_async_client

from pointsman_cli.data_dir import DataDir, Run
from pointsman_cli.doctor.machine import Finding, Level, fail, ok, warn
from pointsman_cli.doctor.running import check_tokens

ANSWER_SECONDS = 5.0
LOOPBACK = re.compile("(0{16}FFFF0000)?[0-9A-F]{6}7F|0{24}01000000")
"""A pattern of loopback addresses (127.0.0.0/8, also as IPv6, and ::1), as /proc/net/tcp and tcp6 write them on a
little-endian machine."""
LISTENING = "0A"
"""The state of a listening socket in /proc/net/tcp and tcp6."""
MIN_DISTINCT_CHARACTERS = 8
"""A token with fewer different characters than this number counts as weak.

`openssl rand -hex 32` prints about 16 different characters; placeholders have fewer than 8.
"""
MAX_NAMED = 3

TLS_SETTINGS = {
    "gateway": "POINTSMAN_GATEWAY_TLS_CERTIFICATE",
    "retriever": "POINTSMAN_RETRIEVER_TLS_CERTIFICATE",
    "lora-server": "POINTSMAN_LORA_TLS_CERTIFICATE",
}
"""The environment variable that turns TLS on in each service, by the service's name."""


def is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


async def check_gateway(url: str) -> list[Finding]:
    """Checks what a client without a key may do at the gateway's base URL `url`, and whether TLS is used.

    Open access is a failure. At a loopback address, it is only a warning, and missing TLS is allowed. If the gateway
    cannot be reached, the only finding is a failure.
    """
    parts = urlsplit(url)
    is_local = is_loopback(parts.hostname or "")
    open_to_others = warn if is_local else fail
    async with open_async_client(base_url=url, timeout=ANSWER_SECONDS, trust_env=False) as client:
        try:
            statuses = {path: (await client.get(path)).status_code for path in ("/v1/models", "/metrics")}
        except httpx.HTTPError as error:
            return [fail("gateway", f"{url} cannot be reached: {error or type(error).__name__}")]
    keys = (
        ok("keys", "requests without a key are refused")
        if statuses["/v1/models"] == 401
        else open_to_others("keys", "off: whoever reaches the gateway may use all of it (POINTSMAN_GATEWAY_AUTH=on)")
    )
    metrics = (
        open_to_others(
            "metrics", "anyone reads the names of paths, tasks and engines (POINTSMAN_GATEWAY_METRICS_LISTEN=HOST:PORT)"
        )
        if statuses["/metrics"] == 200
        else ok("metrics", "not on the port of the API")
    )
    tls = (
        ok("tls", "keys and prompts are encrypted")
        if parts.scheme == "https"
        else ok("tls", "none, on a loopback address")
        if is_local
        else fail("tls", "none: keys and prompts travel in the clear (POINTSMAN_GATEWAY_TLS_CERTIFICATE and _TLS_KEY)")
    )
    return [keys, metrics, tls]


async def check_deployment(run: Run | None, data_dir: DataDir) -> list[Finding]:
    """Checks who can access what `pointsman up` runs on this machine: gateway, services, Redis, ports and files.

    If nothing runs (`run` is None), only the files are checked.
    """
    files = list(check_files(data_dir.folder))
    if run is None:
        return [warn("running", "nothing runs here; only the files are checked"), *files]
    tokens = [_as_failure(finding) for finding in await check_tokens(run)]
    return [*await check_gateway(run.http), *tokens, check_redis(run.redis_url), *check_listeners(run), *files]


def _as_failure(finding: Finding) -> Finding:
    """Converts the warning that a service needs no token to a failure; returns any other finding as it is.

    Without tokens, every user of the machine can call the service.
    """
    return fail(finding.what, finding.detail) if finding.detail.startswith("none:") else finding


def check_redis(url: str) -> Finding:
    """Checks that the URL of Redis has a password or names a Unix socket; otherwise anyone can add API keys."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return ok("redis", "a Unix socket, without a port")
    if parts.password:
        return ok("redis", "needs a password")
    return fail("redis", f"{parts.netloc} needs no password: whoever connects to it can add keys")


def check_files(folder: Path) -> Iterator[Finding]:
    """Checks that other users cannot open the data directory `folder` or its token files, and that no token is weak."""
    if not folder.exists():
        yield ok("files", f"{folder} does not exist")
        return
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o077:
        yield fail("files", f"other users can open {folder} (mode {mode:o}): chmod 700 {folder}")
    else:
        yield ok("files", f"{folder} is private to its user")
    tokens = [file for file in sorted(folder.glob("tokens/*")) if file.is_file()]
    readable = [file.name for file in tokens if file.stat().st_mode & 0o077]
    if readable:
        yield fail("token files", f"other users can read tokens/{', tokens/'.join(readable[:MAX_NAMED])}: chmod 600")
    weak = [file.name for file in tokens if any(_is_weak(word) for word in _token_words(file))]
    if weak:
        yield fail("token strength", f"tokens/{', tokens/'.join(weak[:MAX_NAMED])} holds a token that can be guessed")
    if tokens and not readable and not weak:
        yield ok("token files", "private, and random")


def _token_words(file: Path) -> list[str]:
    """Returns the tokens in a token file: the last word of each line that is no comment."""
    lines = (line.strip() for line in file.read_text("utf-8", "replace").splitlines())
    return [line.split()[-1] for line in lines if line and not line.startswith("#")]


def _is_weak(token: str) -> bool:
    return len(set(token)) < MIN_DISTINCT_CHARACTERS


def check_listeners(run: Run) -> Iterator[Finding]:
    """Yields a finding for each process of `pointsman up` that listens on an address other than loopback.

    The finding is a failure if the process has no TLS, and a warning if it has TLS or cannot be examined. If no process
    listens on such an address, the last finding is OK.
    """
    found = False
    for name, process in sorted(run.processes.items()):
        try:
            ports = listening_ports(process.pid)
            environment = _environment(process.pid)
        except OSError:
            yield warn(f"{name} listens", "unknown: its process belongs to another user, or has ended")
            continue
        if not ports:
            continue
        found = True
        listed = ", ".join(map(str, ports[:MAX_NAMED]))
        if environment.get(TLS_SETTINGS.get(name, "")):
            yield warn(f"{name} listens", f"on other addresses than this machine's own, with TLS (port {listed})")
        else:
            yield fail(f"{name} listens", f"on other addresses than this machine's own, without TLS (port {listed})")
    if not found:
        yield ok("listeners", "on loopback addresses only")


def listening_ports(pid: int, root: Path = Path("/proc")) -> list[int]:
    """Returns the TCP ports at which a process listens on other than loopback addresses, in ascending order.

    `root` is the folder with the files of /proc. Raises OSError if the process has ended, or belongs to another user.
    """
    sockets = set()
    for descriptor in (root / str(pid) / "fd").iterdir():
        try:
            target = os.readlink(descriptor)
        except FileNotFoundError:
            continue  # closed meanwhile
        if target.startswith("socket:["):
            sockets.add(target[len("socket:[") : -1])
    ports = set()
    for table in ("tcp", "tcp6"):
        file = root / str(pid) / "net" / table
        for line in file.read_text().splitlines()[1:] if file.exists() else ():
            fields = line.split()
            address, _, port = fields[1].partition(":")
            if fields[3] == LISTENING and fields[9] in sockets and not LOOPBACK.fullmatch(address):
                ports.add(int(port, 16))
    return sorted(ports)


def _environment(pid: int) -> dict[str, str]:
    entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    pairs = (entry.decode("utf-8", "replace").partition("=") for entry in entries if entry)
    return {name: value for name, _, value in pairs}


def summary(findings: list[Finding]) -> Finding:
    """Returns the last line of a security report: a failure that counts the FAIL findings, or OK if there are none."""
    count = sum(finding.level is Level.FAIL for finding in findings)
    return fail("security", f"{count} findings to fix") if count else ok("security", "nothing is open that must not be")
