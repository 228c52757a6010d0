"""Bearer tokens between services: a client sends the token in its file, a server looks it up in its file of peers.

A server's file has one client (peer) a line, `NAME ROLE TOKEN`, and comments that start with "#":

    # gateways read states, load adapters and report on canaries
    gateway write 8f0c...
    ann     admin 51d2...

Both files are read again when they change, so a token can be replaced without a restart.
"""

import hmac
import ipaddress
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from pathlib import Path
from typing import Generic, TypeVar

from pointsman_servicekit.errors import PermissionDenied, Unauthenticated
from pointsman_servicekit.grpc_errors import Context

log = logging.getLogger(__name__)

MIN_TOKEN_CHARACTERS = 32
CHECK_SECONDS = 1.0
"""Least number of seconds between two checks whether a followed file has changed."""

T = TypeVar("T")


class TokenFileError(OSError):
    """A file of tokens cannot be read or has invalid content; the message contains no token."""


class Role(IntEnum):
    """The rights of a peer; each role includes the roles before it. `method_roles` assigns methods to roles."""

    READ = 1
    WRITE = 2
    ADMIN = 3


def method_roles(
    service: str, *, read: Iterable[str] = (), write: Iterable[str] = (), admin: Iterable[str] = ()
) -> Mapping[str, Role]:
    """Returns the role that each method needs, by the method's path ("/pointsman.v1.Retriever/Search").

    `service` is the service's full name; `read`, `write` and `admin` are names of its methods.
    """
    methods = {Role.READ: read, Role.WRITE: write, Role.ADMIN: admin}
    return {f"/{service}/{name}": role for role, names in methods.items() for name in names}


@dataclass(frozen=True, slots=True)
class Peer:
    """A client in a server's file of tokens: its name and its role."""

    name: str
    role: Role


authenticated_peer: ContextVar[Peer | None] = ContextVar("authenticated_peer", default=None)
"""The peer whose call this task serves; None if the service does not authenticate."""


def author_of(claimed: str) -> str:
    """Returns the author to record for a change: "PEER (CLAIMED)".

    PEER is the authenticated peer's name, and CLAIMED is `claimed`, the author that the request names. The result is
    PEER alone if `claimed` is empty or equal to PEER, and `claimed` alone if the service does not authenticate.
    """
    peer = authenticated_peer.get()
    if peer is None:
        return claimed
    return f"{peer.name} ({claimed})" if claimed and claimed != peer.name else peer.name


class FollowedFile(Generic[T]):
    """The parsed content of a file; the file is read again after it has changed."""

    def __init__(self, path: Path, parse: Callable[[str], T], clock: Callable[[], float] = time.monotonic) -> None:
        """Reads the file; `parse` converts its text, and raises TokenFileError if the text is not valid.

        Raises TokenFileError if the file cannot be read, is not UTF-8, or is not valid. `clock` is in seconds.
        """
        self._path = path
        self._parse = parse
        self._clock = clock
        self._checked_at = clock()
        self._stamp = _stamp(path)
        self._value = self._read()

    @property
    def value(self) -> T:
        """Returns the content of the last valid version of the file.

        At most once in `CHECK_SECONDS`, checks whether the file has changed, and reads a changed file again. If the new
        version cannot be used, logs why and returns the content as before.
        """
        now = self._clock()
        if now >= self._checked_at + CHECK_SECONDS:
            self._checked_at = now
            stamp = _stamp(self._path)
            if stamp != self._stamp:
                self._stamp = stamp
                self._read_again()
        return self._value

    def _read_again(self) -> None:
        try:
            self._value = self._read()
        except TokenFileError as error:
            log.error("the changed file is not used, the last valid version stays in use: %s", error)
        else:
            log.info("%s was read again", self._path)

    def _read(self) -> T:
        try:
            text = self._path.read_text("utf-8")
        except OSError as error:
            raise TokenFileError(f"{self._path} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError:
            raise TokenFileError(f"{self._path} is not UTF-8 text") from None
        try:
            return self._parse(text)
        except TokenFileError as error:
            raise TokenFileError(f"{self._path}: {error}") from None


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Returns inode, size and modification time (ns) of a file, by which changes are noticed; None without a file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


Peers = Mapping[bytes, Peer]
"""The peers of a server, by the SHA-256 digest of the peer's token."""


def parse_peers(text: str) -> Peers:
    """Parses the text of a server's file of tokens.

    Raises TokenFileError for a line that is not NAME ROLE TOKEN, an unknown role, a token that is too short or not one
    word of printable ASCII, a name or a token that appears twice, and if there is no token.
    """
    peers: dict[bytes, Peer] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        if len(fields) != 3:
            raise TokenFileError(f"line {number} is not NAME ROLE TOKEN")
        name, role, token = fields
        if role.upper() not in Role.__members__:
            raise TokenFileError(f"line {number}: the role must be one of read, write, admin, not '{role[:16]}'")
        _check_token(token, f"line {number}: ")
        if any(peer.name == name for peer in peers.values()):
            raise TokenFileError(f"line {number}: the name '{name}' appears twice")
        digest = sha256(token.encode()).digest()
        if digest in peers:
            raise TokenFileError(f"line {number}: the token is also that of '{peers[digest].name}'")
        peers[digest] = Peer(name, Role[role.upper()])
    if not peers:
        raise TokenFileError("it contains no token; add a line NAME ROLE TOKEN")
    return peers


def parse_token(text: str) -> str:
    """Returns the token in the text of a client's file, which must contain nothing else.

    Raises TokenFileError if the token has fewer than `MIN_TOKEN_CHARACTERS` characters, or is not one word of printable
    ASCII.
    """
    token = text.strip()
    _check_token(token)
    return token


def _check_token(token: str, where: str = "") -> None:
    if len(token) < MIN_TOKEN_CHARACTERS:
        raise TokenFileError(
            f"{where}a token must have at least {MIN_TOKEN_CHARACTERS} characters, as `openssl rand -hex 32` makes it"
        )
    if not token.isascii() or not token.isprintable() or " " in token:
        raise TokenFileError(f"{where}a token must be one word of printable ASCII characters")


class TokenGate:
    """Authenticates gRPC calls by bearer tokens, and checks the peer's role; implements `Gate`."""

    def __init__(self, peers: FollowedFile[Peers], roles: Mapping[str, Role]) -> None:
        """Takes the peers of a token file, and `roles` as `method_roles` returns them."""
        self._peers = peers
        self._roles = roles

    async def admit(self, method: str, context: Context) -> str:
        """Returns the name of the peer whose token the call has, and sets `authenticated_peer` for the call.

        Raises Unauthenticated if the call has no token ("missing_token"), no single bearer token ("bad_token") or an
        unknown one ("unknown_token"), and PermissionDenied ("role_too_low") if the peer's role does not include the
        role that the method needs. A method that is not in `roles` needs `ADMIN`.
        """
        peer = self._identify(context)
        needed = self._roles.get(method, Role.ADMIN)
        if peer.role < needed:
            raise PermissionDenied(
                f"'{peer.name}' has the role {peer.role.name.lower()}, and {method.rpartition('/')[2]} needs the role "
                f"{needed.name.lower()}",
                code="role_too_low",
            )
        authenticated_peer.set(peer)
        return peer.name

    def _identify(self, context: Context) -> Peer:
        shown = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
        if not shown:
            raise Unauthenticated(
                "this service needs a token: send the metadata 'authorization: Bearer TOKEN'", code="missing_token"
            )
        scheme, _, token = str(shown[0]).partition(" ")
        if len(shown) > 1 or scheme.lower() != "bearer":
            raise Unauthenticated("send one 'authorization: Bearer TOKEN' in the metadata", code="bad_token")
        digest = sha256(token.strip().encode()).digest()
        found = None
        for known, peer in self._peers.value.items():  # all are compared, so that the time does not depend on which
            if hmac.compare_digest(known, digest):
                found = peer
        if found is None:
            raise Unauthenticated("the token is not known to this service", code="unknown_token")
        return found


def open_token_gate(path: Path | None, roles: Mapping[str, Role], listen: str, setting: str) -> TokenGate | None:
    """Returns a gate that authenticates calls by the file of tokens `path`; None if `path` is None.

    `roles` is what `method_roles` returns. Without a file it logs a warning, which names the setting `setting`, unless
    `listen`, the server's address, is a loopback address. Raises TokenFileError if the file cannot be read or is not
    valid.
    """
    if path is not None:
        return TokenGate(FollowedFile(path, parse_peers), roles)
    if not is_loopback(listen):
        log.warning("whoever can connect to %s may do everything: no tokens are set (%s)", listen, setting)
    return None


def is_loopback(listen: str) -> bool:
    """Returns whether only processes of this machine can connect to an address such as "127.0.0.1:8082".

    True for a Unix socket ("unix:..."), a loopback IP address and "localhost"; False for any other name.
    """
    if listen.startswith("unix:"):
        return True
    host = listen.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def open_token(path: Path | None) -> Callable[[], str] | None:
    """Returns a function that returns the current token in a client's file `path`; None if `path` is None.

    Raises TokenFileError if the file cannot be read or its token is not valid (`parse_token`).
    """
    if path is None:
        return None
    file = FollowedFile(path, parse_token)
    return lambda: file.value
