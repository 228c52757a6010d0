"""TLS settings of servers and clients. Their files are checked before use, and errors name the file."""

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)


class TlsError(OSError):
    """A file for TLS cannot be read or used, does not match another file, or is not set although another setting needs
    it.
    """


@dataclass(frozen=True, slots=True)
class ServerTls:
    """The files of the certificate that a server presents, and of the CA that must have signed its clients'
    certificates.
    """

    certificate: Path
    """The PEM file of the server's own certificate, followed by the intermediate ones."""
    key: Path
    """The file of the private key in PEM, not encrypted."""
    client_ca: Path | None = None
    """A PEM file of CAs; if it is set, a client must present a certificate signed by one of them."""

    def context(self) -> ssl.SSLContext:
        """Returns a new SSL context for the server, for TLS 1.2 or later.

        Raises TlsError if a file cannot be read or used, or if key and certificate do not match.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.load_into(context)
        if self.client_ca:
            _trust(context, self.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def load_into(self, context: ssl.SSLContext) -> None:
        """Loads certificate and key into an SSL context, for later handshakes.

        Raises TlsError if a file cannot be read or used, or if key and certificate do not match.
        """
        _show(context, self.certificate, self.key)

    def stamp(self) -> tuple[object, ...]:
        """Returns a value that changes with the inode, size or modification time of one of the three files."""
        return _stamp(self.certificate, self.key, self.client_ca)

    def pem(self) -> tuple[bytes, bytes, bytes | None]:
        """Returns the contents of the files: key, certificate, and client CA (None if not set).

        Checks them before; raises TlsError if a file cannot be read or used, or if key and certificate do not match.
        """
        self.context()
        return _read(self.key), _read(self.certificate), _read(self.client_ca) if self.client_ca else None


@dataclass(frozen=True, slots=True)
class ClientTls:
    """The CA that a client trusts, and the certificate that it presents, if any."""

    ca: Path
    """A PEM file of CAs, one of which must have signed the server's certificate."""
    certificate: Path | None = None
    key: Path | None = None
    server_name: str = ""
    """The name that the server's certificate must have; empty: the host name of the server's address."""

    def pem(self) -> tuple[bytes, bytes | None, bytes | None]:
        """Returns the contents of the files: CA, key, and certificate; the last two are None if either is not set.

        Raises TlsError if a file cannot be read or used, or if key and certificate do not match.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _trust(context, self.ca)
        if self.certificate is None or self.key is None:
            return _read(self.ca), None, None
        _show(context, self.certificate, self.key)
        return _read(self.ca), _read(self.key), _read(self.certificate)


class ReloadingTls:
    """A server's SSL context that is updated when the certificate's files change.

    The server has to call `follow` regularly. The client CA is read only once.
    """

    def __init__(self, tls: ServerTls) -> None:
        """Loads the files. Raises TlsError if a file cannot be read or used, or if key and certificate do not match."""
        self._tls = tls
        self._stamp = tls.stamp()
        self.context: ssl.SSLContext = tls.context()

    def follow(self) -> None:
        """Loads certificate and key again if a file has changed.

        If the new files cannot be used, logs why and keeps the earlier certificate and key.
        """
        now = self._tls.stamp()
        if now == self._stamp:
            return
        self._stamp = now
        try:
            self._tls.context()  # first: `self.context` must not get a mismatched pair
            self._tls.load_into(self.context)
        except TlsError as error:
            log.error("the changed certificate is not used, the one before goes on: %s", error)
        else:
            log.info("the certificate %s was read anew", self._tls.certificate)


def server_tls(certificate: Path | None, key: Path | None, client_ca: Path | None) -> ServerTls | None:
    """Returns the TLS of a server from its settings `tls_certificate`, `tls_key` and `tls_client_ca`.

    Returns None if all three are None. Raises TlsError if a file cannot be read or used, if certificate and key do not
    match, if only one of certificate and key is set, or if the client CA is set and they are not.
    """
    if certificate is None and key is None:
        if client_ca is not None:
            raise TlsError("tls_client_ca is set without tls_certificate and tls_key; set all three, or none")
        return None
    _both("tls_", certificate, key)
    assert certificate is not None
    assert key is not None
    tls = ServerTls(certificate, key, client_ca)
    tls.context()
    return tls


def client_tls(ca: Path | None, certificate: Path | None, key: Path | None, server_name: str = "") -> ClientTls | None:
    """Returns the TLS of a client from its service's settings `client_tls_*`; None if all three files are None.

    The CA alone is enough. `server_name` is the name that the server's certificate must have; empty: the host name of
    the server's address. Raises TlsError if a file cannot be read or used, if certificate and key do not match, if only
    one of certificate and key is set, or if they are set and the CA is not.
    """
    if ca is None:
        if certificate is not None or key is not None:
            raise TlsError(
                "client_tls_certificate or client_tls_key is set without client_tls_ca; set all of them or none"
            )
        return None
    if certificate is not None or key is not None:
        _both("client_tls_", certificate, key)
    tls = ClientTls(ca, certificate, key, server_name)
    tls.pem()
    return tls


def _both(prefix: str, certificate: Path | None, key: Path | None) -> None:
    if certificate is None or key is None:
        there, missing = ("key", "certificate") if certificate is None else ("certificate", "key")
        raise TlsError(f"{prefix}{there} is set without {prefix}{missing}; set both, or none")


def _show(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    if b"-----BEGIN CERTIFICATE-----" not in _read(certificate):
        raise TlsError(f"{certificate} holds no certificate in PEM")
    written = _read(key)
    if b"PRIVATE KEY-----" not in written:
        raise TlsError(f"{key} holds no private key in PEM")
    if b"ENCRYPTED" in written:
        raise TlsError(f"{key} is encrypted; write it without a password, readable by its service alone")
    try:
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsError(f"the key {key} is not that of the certificate {certificate}") from error
        raise TlsError(f"{certificate} with {key} cannot be used: {error.reason or error}") from error


def _trust(context: ssl.SSLContext, ca: Path) -> None:
    try:
        context.load_verify_locations(cadata=_read(ca).decode("ascii", "replace"))
    except ssl.SSLError as error:
        raise TlsError(f"{ca} holds no certificate in PEM") from error


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise TlsError(f"{file} cannot be read: {error.strerror}") from error


def _stamp(*files: Path | None) -> tuple[object, ...]:
    stamps: list[object] = []
    for file in files:
        try:
            about = file.stat() if file else None
        except OSError:
            about = None  # the file was removed; handshakes continue with what was read
        stamps.append(about and (about.st_ino, about.st_size, about.st_mtime_ns))
    return tuple(stamps)
