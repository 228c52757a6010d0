"""Certificates made by `openssl`, for real handshakes."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pointsman_servicekit.tls import ServerTls


@dataclass(frozen=True)
class Signed:
    certificate: Path
    key: Path


class Authority:
    """A certificate authority."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._name = name
        self.certificate = folder / f"{name}.pem"
        self._key = folder / f"{name}.key"
        new = ["req", "-x509", *_NEW_KEY, "-days", "2", "-subj", f"/CN={name}"]
        _openssl(*new, "-keyout", str(self._key), "-out", str(self.certificate))

    def sign(self, subject: str, alternative: str = "IP:127.0.0.1,DNS:localhost") -> Signed:
        certificate, key = self._folder / f"{subject}.pem", self._folder / f"{subject}.key"
        request, extensions = self._folder / f"{subject}.csr", self._folder / f"{subject}.ext"
        extensions.write_text(f"subjectAltName={alternative}\n")
        _openssl("req", *_NEW_KEY, "-subj", f"/CN={subject}", "-keyout", str(key), "-out", str(request))
        by = ["-CA", str(self.certificate), "-CAkey", str(self._key), "-CAcreateserial"]
        _openssl(
            *("x509", "-req", "-in", str(request), *by, "-days", "2"),
            *("-extfile", str(extensions), "-out", str(certificate)),
        )
        return Signed(certificate, key)


_NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def copied(signed: Signed, folder: Path) -> ServerTls:
    """Copies the certificate and its key to `folder`, so that a test can change the files."""
    certificate, key = folder / "server.pem", folder / "server.key"
    shutil.copy(signed.certificate, certificate)
    shutil.copy(signed.key, key)
    return ServerTls(certificate, key)
