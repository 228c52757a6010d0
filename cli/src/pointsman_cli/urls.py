"""URLs as people name them."""

from urllib.parse import urlsplit

import httpx

from pointsman_cli.errors import Misused


def web_url(named: str) -> str:
    """`named` as a URL of HTTP, `http://` before it where it has no scheme. Raises Misused where it can be none."""
    url = (named if "://" in named else f"http://{named}").rstrip("/")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and httpx.URL(url).host
        problem = "" if usable else "it wants http:// or https:// and a host"
    except (ValueError, httpx.InvalidURL) as error:
        problem = str(error)
    if problem:
        raise Misused(f"'{named}' is no URL of a door ({problem}); one is such as http://127.0.0.1:8080")
    return url
