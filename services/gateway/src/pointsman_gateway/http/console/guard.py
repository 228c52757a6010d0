"""Who may speak to the console's API from a browser: its own page, and no other site.

Another site's page cannot send the header below without asking first, and nobody here answers such a question. Where
keys are off, a name that somebody else has pointed at this machine (DNS rebinding) is refused too: then the page's
address must be the machine's own (localhost, or an address in numbers), or be named in the settings. Where keys are on
a foreign name gains nothing, since the key is not its own.
"""

from collections.abc import Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from fastapi import Request
from pointsman_servicekit.errors import InvalidArgument, PermissionDenied

HEADER = "x-pointsman-console"


def check_site(request: Request, keys: bool, hosts: Sequence[str]) -> None:
    """Raises PermissionDenied ("other_site", "unknown_host"), or InvalidArgument where the body is not said to be
    JSON. `hosts` are allowed beside the machine's own."""
    host = request.headers.get("host", "")
    origin = request.headers.get("origin")
    if HEADER not in request.headers or (origin is not None and urlsplit(origin).netloc != host):
        raise PermissionDenied(
            f"only the console's own page speaks to this route: same origin, and the header {HEADER}", code="other_site"
        )
    if not keys and not _is_ours(host, hosts):
        raise PermissionDenied(
            f"keys are off, so the console is served to this machine's own names only, not to '{host[:100]}'; "
            "POINTSMAN_GATEWAY_CONSOLE_HOSTS names others",
            code="unknown_host",
        )
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.method == "POST" and kind != "application/json":
        raise InvalidArgument("the body must be application/json", code="bad_content_type", param="content-type")


def _is_ours(host: str, hosts: Sequence[str]) -> bool:
    name = (urlsplit(f"//{host}").hostname or "").lower()
    if name == "localhost" or name.endswith(".localhost") or name in hosts:
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
