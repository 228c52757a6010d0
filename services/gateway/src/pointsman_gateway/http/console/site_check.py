"""Checks that a request to the console's API comes from the console's own page, not from another site's.

Pages of other sites cannot send the required header without a CORS preflight request, which is never granted. If API
keys are off, the page's host must also be local (localhost or an IP address) or configured. This check prevents DNS
rebinding, in which an attacker's domain name resolves to this machine. If keys are on, the attacker lacks the key.
"""

from collections.abc import Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from fastapi import Request
from pointsman_servicekit.errors import InvalidArgument, PermissionDenied

CONSOLE_HEADER = "x-pointsman-console"


def check_site(request: Request, keys: bool, hosts: Sequence[str]) -> None:
    """Checks that a request to the console's API comes from the console's own page. `keys` says whether API keys
    are on.

    Raises:
    * PermissionDenied ("other_site") if `CONSOLE_HEADER` is missing, or the origin is another host;
    * PermissionDenied ("unknown_host") if keys are off, and the request's host is none of these: localhost, a name
      under it, an IP address, one of `hosts`;
    * InvalidArgument if it is a POST whose content type is not JSON.
    """
    host = request.headers.get("host", "")
    if CONSOLE_HEADER not in request.headers or not _is_same_site(request.headers.get("origin"), host):
        raise PermissionDenied(
            f"only the console's own page may call this route: from the same origin, with the header {CONSOLE_HEADER}",
            code="other_site",
        )
    if not keys and not _is_local_or_allowed(host, hosts):
        raise PermissionDenied(
            f"keys are off, so the console is served only under this machine's own names, not under '{host[:100]}'; "
            "to allow another name, add it to POINTSMAN_GATEWAY_CONSOLE_HOSTS",
            code="unknown_host",
        )
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.method == "POST" and kind != "application/json":
        raise InvalidArgument("the body must be application/json", code="bad_content_type", param="content-type")


def _is_same_site(origin: str | None, host: str) -> bool:
    """Returns whether the `Origin` header names a page of `host`. Also true without such a header, since clients that
    are no browsers send none.
    """
    if origin is None:
        return True
    try:
        return urlsplit(origin).netloc == host
    except ValueError:  # the origin is no URL
        return False


def _is_local_or_allowed(host: str, hosts: Sequence[str]) -> bool:
    try:
        name = (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:  # such as an address with one bracket
        return False
    if name == "localhost" or name.endswith(".localhost") or name in hosts:
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
