"""Checks the values of settings that several services have, and describes a value that cannot be used."""

from collections.abc import Iterable, Mapping

MAX_PORT = 65_535
UNIX_PREFIX = "unix:"
_OWN_ERROR = "Value error, "
"""Precedes the message of a validator's ValueError in the errors of pydantic."""


class WrongSetting(ValueError):
    """A setting in the environment has a value that cannot be used; the message names variable, value and remedy."""

    def __init__(self, prefix: str, errors: Iterable[Mapping[str, object]]) -> None:
        """Takes the prefix of the service's variables, and what pydantic's `ValidationError.errors()` returns."""
        super().__init__("; ".join(_describe(prefix, error) for error in errors))


def _describe(prefix: str, error: Mapping[str, object]) -> str:
    message, location = str(error["msg"]).removeprefix(_OWN_ERROR), error["loc"]
    if not location:  # an error of several settings, whose message names them
        return message
    assert isinstance(location, tuple)
    return f"{prefix}{str(location[0]).upper()} is {error['input']!r}: {message}"


def split_address(address: str) -> tuple[str, int]:
    """Splits "HOST:PORT" into host and port: "[::]:80" into "[::]" and 80, ":80" into "" and 80.

    Raises ValueError if the address has another form, or the port is above `MAX_PORT`; the message says what to write.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > MAX_PORT:
        raise ValueError(f"write HOST:PORT, such as 127.0.0.1:8080 or [::]:8080, with a port from 0 to {MAX_PORT}")
    return host, int(port)


def require_address(listen: str) -> str:
    """Returns `listen`, the address at which a server listens, if it is valid.

    Raises ValueError, whose message says what to write, if `listen` is not HOST:PORT.
    """
    split_address(listen)
    return listen


def require_grpc_address(listen: str) -> str:
    """Returns `listen`, the address at which a gRPC server listens, if it is valid.

    A valid address is HOST:PORT, or that of a Unix socket ("unix:..."). Raises ValueError, which says what to write,
    for any other text.
    """
    return listen if listen.startswith(UNIX_PREFIX) else require_address(listen)
