"""Connects to the Kubernetes API as a pod or as kubectl does, and turns its errors into sentences.

It needs the extra `kubernetes` (lightkube), which is imported at the first connection.
"""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pointsman_servicekit.errors import Unavailable

if TYPE_CHECKING:  # most processes never connect, and the import takes 0.2 s and 11 MB
    from httpx2 import HTTPStatusError
    from lightkube import AsyncClient

log = logging.getLogger(__name__)

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""The folder in which Kubernetes mounts a pod's token, its namespace and the API server's CA."""
TIMEOUT_SECONDS = 5.0
"""Time limit for connecting, and for each wait for a part of an answer. A watch waits without a limit."""


class ApiFailed(Unavailable):
    """The Kubernetes API refused a request, did not answer it, or answered something unreadable."""

    def __init__(self, message: str, status: int = 0, missing: str = "") -> None:
        """Makes an error from a refusal of the Kubernetes API; `status` is its HTTP status, 0 if there was no answer.

        `missing` is the object's name in the refusal. A refusal with status 404 and a name means that there is no such
        object; without a name, that the cluster does not know the kind of object.
        """
        super().__init__(message, code="kubernetes_api_failed")
        self.status = status
        self.missing = missing

    @property
    def is_forbidden(self) -> bool:
        """Returns whether the service account lacks a permission, or is not known."""
        return self.status in (401, 403)

    @property
    def is_missing(self) -> bool:
        """Returns whether the cluster knows the kind of object, and has none of this name."""
        return self.status == 404 and bool(self.missing)

    @property
    def is_conflict(self) -> bool:
        """Returns whether the object has changed since the version that the request names."""
        return self.status == 409

    @property
    def is_expired(self) -> bool:
        """Returns whether the request asked for changes since a version of the objects that the API server has
        forgotten.
        """
        return self.status == 410


class WatchEnded(Exception):
    """The API server has ended the watch without an error, as it does after its time limit."""


@asynccontextmanager
async def open_api(service_account: Path | None, field_manager: str = "") -> AsyncIterator["AsyncClient"]:
    """Yields a client of the API server that `KUBERNETES_SERVICE_HOST` names; raises ApiFailed for errors of the block.

    Token and CA are read from the folder `service_account` for each client, and the token once more if the server
    refuses it, since Kubernetes replaces it. A client with a `service_account` serves one watch, and raises WatchEnded
    when the server ends the watch: lightkube would repeat the watch without a pause. If `service_account` is None, the
    cluster and the user are those of `KUBECONFIG` or ~/.kube/config; in a pod, those of the pod. `field_manager` is the
    name under which fields are written.
    """
    api = await _connect(service_account, field_manager)
    from httpx2 import HTTPError
    from lightkube import ConfigError
    from lightkube.core.exceptions import NotReadyError
    from msgspec import MsgspecError

    try:
        yield api
    except (ConfigError, OSError) as error:
        if service_account is None and not isinstance(error, ConfigError | FileNotFoundError | PermissionError):
            raise  # not of a login: the block's own, such as of a full disk
        if service_account is None:
            raise ApiFailed(f"the kubeconfig's user cannot log in: {error}; does kubectl work?") from error
        raise ApiFailed(f"the service account's token cannot be read: {error}") from error
    except HTTPError as error:
        raise _failed(error) from error
    except (MsgspecError, NotReadyError, KeyError, ValueError) as error:
        log.debug("the Kubernetes API's object, or code that reads it", exc_info=error)
        raise _unreadable(error) from error
    finally:
        await api.close()


async def get_or_none(api: "AsyncClient", resource: Any, name: str, namespace: str | None = None) -> Any:
    """Returns the object `name` of the lightkube class `resource`; None if there is none of this name.

    `namespace` is the pod's by default. Raises the library's errors, also if the cluster does not know the kind.
    """
    from lightkube import ApiError

    try:
        return await api.get(resource, name, namespace=namespace)
    except ApiError as error:
        if _failed(error).is_missing:
            return None
        raise


async def _connect(service_account: Path | None, field_manager: str) -> "AsyncClient":
    try:
        await asyncio.to_thread(import_module, "lightkube")
    except ModuleNotFoundError as error:
        raise ApiFailed("the Kubernetes API needs the package lightkube: install the extra `kubernetes`") from error
    from httpx2 import Timeout
    from lightkube import AsyncClient, ConfigError, KubeConfig

    try:
        found = KubeConfig.from_service_account(service_account) if service_account else KubeConfig.from_env()
        # trust_env: a pod's API is in the same cluster, and never behind the proxy that HTTPS_PROXY names for others.
        return AsyncClient(
            found.get(),
            timeout=Timeout(TIMEOUT_SECONDS),
            trust_env=service_account is None,
            field_manager=field_manager or None,
            transport=_one_watch_transport(service_account / "ca.crt") if service_account else None,
        )
    except ConfigError as error:
        if service_account is None:
            raise ApiFailed(
                f"there is no kubeconfig that can be used ({error}): set KUBECONFIG to the file that kubectl uses"
            ) from error
        raise ApiFailed(
            f"there is no service account in {service_account} ({error}): run in a pod whose spec has "
            "automountServiceAccountToken: true"
        ) from error
    except KeyError as error:
        if service_account is None:
            raise ApiFailed(f"the kubeconfig names {error.args[0]}, and does not define it") from error
        raise ApiFailed(f"the environment has no {error.args[0]}, which Kubernetes sets in every pod") from error
    except (OSError, ssl.SSLError, ValueError) as error:
        source = f"the service account in {service_account}" if service_account else "the kubeconfig"
        raise ApiFailed(f"{source} cannot be used: {error}") from error


def _one_watch_transport(authority: Path) -> Any:
    from httpx2 import AsyncHTTPTransport, Request, Response

    class OneWatchTransport(AsyncHTTPTransport):
        has_watched = False

        async def handle_async_request(self, request: Request) -> Response:
            if request.url.params.get("watch") != "true":
                return await super().handle_async_request(request)
            if self.has_watched:
                raise WatchEnded
            response = await super().handle_async_request(request)
            self.has_watched = response.status_code == 200  # otherwise it may be sent again with a new token
            return response

    return OneWatchTransport(verify=ssl.create_default_context(cafile=authority), trust_env=False)


def _failed(error: Exception) -> ApiFailed:
    from httpx2 import HTTPStatusError
    from lightkube import ApiError

    if isinstance(error, ApiError):
        status, details = error.status, error.status.details
        # An error event of a watch has no response of its own; `response` is then missing.
        code = status.code or (error.response.status_code if error.response else 0)
        message = status.message or status.reason or code
        return ApiFailed(f"the Kubernetes API answered: {message}", code, (details and details.name) or "")
    if isinstance(error, HTTPStatusError):
        return _answered(error)
    return ApiFailed(f"the Kubernetes API does not answer: {type(error).__name__}: {error}".removesuffix(": "))


def _unreadable(error: Exception) -> ApiFailed:
    """Returns the failure for an answer that the library cannot read; with its HTTP status if it is a refusal."""
    from httpx2 import HTTPStatusError

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, HTTPStatusError):
            return _answered(cause)
        cause = cause.__context__
    return ApiFailed(f"the Kubernetes API sent an object that cannot be read: {type(error).__name__}: {error}")


def _answered(error: "HTTPStatusError") -> ApiFailed:
    request, status = error.request, error.response.status_code
    return ApiFailed(f"the Kubernetes API answered {status} to {request.method} {request.url.path}", status)
