"""Signs certificates, and checks their signatures, by Ed25519 keys in PEM files (`openssl genpkey -algorithm ed25519`).

A signature proves that the holder of the key made exactly this certificate. It proves neither that the evaluation took
place nor that the evaluated rows resemble later requests.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pointsman_cli.certificate.statement import Signature
from pointsman_cli.errors import UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

ALGORITHM = "ed25519"
CONTEXT = b"pointsman certificate 1\n"
"""Bytes that are signed before the statement, so that a signature made for another purpose is not valid here."""

_REMEDY = "pip install 'pointsman[signing]'"


def sign(message: bytes, key_file: Path) -> Signature:
    """Signs `message`, the canonical form of a statement, with the private key in a PEM file.

    Raises UsageError if the file cannot be read, if its key is not an Ed25519 key or has a password, or if the package
    cryptography is not installed.
    """
    ed25519, serialization = _library()
    try:
        key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
    except OSError as error:
        raise UsageError(f"cannot read {key_file}: {error.strerror or error}") from error
    except (ValueError, TypeError) as error:
        raise UsageError(f"{key_file} is not a private key in PEM without a password: {error}") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise UsageError(f"{key_file} is not an Ed25519 key; make one with `openssl genpkey -algorithm ed25519`")
    public = key.public_key().public_bytes_raw()
    return Signature(ALGORITHM, public.hex(), key.sign(CONTEXT + message).hex())


def problem_of(message: bytes, signature: Signature, trusted_file: Path | None) -> str:
    """Returns why `signature` is not a valid signature of `message`, as a sentence; empty if it is valid.

    `trusted_file` is a PEM file with the public or private key by which the message must be signed; None: any key.
    Raises UsageError if that file cannot be read or has no Ed25519 key, or if the package cryptography is not
    installed.
    """
    ed25519, _ = _library()
    if signature.algorithm != ALGORITHM:
        return f"the signature's algorithm is '{signature.algorithm[:20]}', not {ALGORITHM}"
    if trusted_file and _public_key(trusted_file).public_bytes_raw().hex() != signature.public_key:
        return f"it is signed with another key ({signature.public_key[:16]}...) than {trusted_file} has"
    from cryptography.exceptions import InvalidSignature

    try:
        key = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(signature.public_key))
        key.verify(bytes.fromhex(signature.value), CONTEXT + message)
    except (InvalidSignature, ValueError):
        return "the signature is not of this statement"
    return ""


def _public_key(file: Path) -> "Ed25519PublicKey":
    ed25519, serialization = _library()
    try:
        content = file.read_bytes()
        is_private = b"PRIVATE KEY" in content
        key = (
            serialization.load_pem_private_key(content, password=None).public_key()
            if is_private
            else serialization.load_pem_public_key(content)
        )
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror or error}") from error
    except (ValueError, TypeError) as error:
        raise UsageError(f"{file} is not a key in PEM: {error}") from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise UsageError(f"{file} is not an Ed25519 key, by which certificates are signed")
    public: Ed25519PublicKey = key
    return public


def _library() -> tuple[Any, Any]:
    """Imports the package cryptography on first use; returns its modules for signing and for reading keys."""
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise UsageError(f"signatures need the package cryptography: {_REMEDY}") from error
    return ed25519, serialization
