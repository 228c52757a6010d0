"""Connects to the Kubernetes API with the pod's service account, and turns its errors into sentences.

It needs the extra `kubernetes` (lightkube), which is imported at the first connection.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from pointsman_servicekit.errors import Unavailable

if TYPE_CHECKING:  # most processes never connect, and the import takes 0.2 s and 11 MB
    from lightkube import AsyncClient

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""The folder in which Kubernetes mounts a pod's token, its namespace and the API server's CA."""
TIMEOUT_SECONDS = 5.0
"""Time limit for connecting, and for each wait for a part of an answer. A watch waits without a limit."""


class ApiFailed(Unavailable):
    """The Kubernetes API refused a request, did not answer it, or answered something unreadable."""

    def __init__(self, message: str, status: int = 0) -> None:
        """`status` is the HTTP status of the refusal; 0 if there was no answer."""
        super().__init__(message, code="kubernetes_api_failed")
        self.status = status


@asynccontextmanager
async def open_api(service_account: Path, field_manager: str = "") -> AsyncIterator["AsyncClient"]:
    """Yields a client of the API server that `KUBERNETES_SERVICE_HOST` names; raises ApiFailed for errors of the block.

    Token and CA are read from the folder `service_account` each time, and the token once more if it is refused, since
    Kubernetes replaces it. `field_manager` is the name under which fields are written.
    """
    api = await _connect(service_account, field_manager)
    from httpx2 import HTTPError
    from msgspec import MsgspecError

    try:
        yield api
    except HTTPError as error:
        raise _failed(error) from error
    except MsgspecError as error:
        raise ApiFailed(f"the Kubernetes API sent an object that cannot be read: {error}") from error
    finally:
        await api.close()


async def _connect(service_account: Path, field_manager: str) -> "AsyncClient":
    try:
        await asyncio.to_thread(import_module, "lightkube")
    except ModuleNotFoundError as error:
        raise ApiFailed("the Kubernetes API needs the package lightkube: install the extra `kubernetes`") from error
    from httpx2 import Timeout
    from lightkube import AsyncClient, ConfigError, KubeConfig

    try:
        config = KubeConfig.from_service_account(service_account).get()
        # trust_env: the API is in the same cluster, and never behind the proxy that HTTPS_PROXY names for others.
        return AsyncClient(
            config, timeout=Timeout(TIMEOUT_SECONDS), trust_env=False, field_manager=field_manager or None
        )
    except ConfigError as error:
        raise ApiFailed(
            f"there is no service account in {service_account} ({error}): run in a pod whose spec has "
            "automountServiceAccountToken: true"
        ) from error
    except KeyError as error:
        raise ApiFailed(f"the environment has no {error.args[0]}, which Kubernetes sets in every pod") from error
    except (OSError, ssl.SSLError, ValueError) as error:
        raise ApiFailed(f"the service account in {service_account} cannot be used: {error}") from error


def _failed(error: Exception) -> ApiFailed:
    from httpx2 import HTTPStatusError
    from lightkube import ApiError

    if isinstance(error, ApiError):
        return ApiFailed(f"the Kubernetes API answered: {error.status.message}", error.status.code or 0)
    if isinstance(error, HTTPStatusError):
        status = error.response.status_code
        return ApiFailed(f"the Kubernetes API answered {status}", status)
    return ApiFailed(f"the Kubernetes API does not answer: {type(error).__name__}: {error}".removesuffix(": "))
