"""Serves the files of the console's page, with headers that forbid the browser to load any other content."""

import gzip
import hashlib
from dataclasses import dataclass
from importlib.resources import files

from fastapi import Request
from pointsman_servicekit.errors import NotFound
from starlette.responses import RedirectResponse, Response

CONTENT_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""Allows only scripts and styles from files of this gateway; `trusted-types` prevents that text becomes markup."""

HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",  # clients revalidate by etag
    "vary": "accept-encoding",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of the console's page, ready to be sent."""

    content: bytes
    compressed: bytes
    """The file's content, compressed with gzip."""
    kind: str
    """The value of the header `content-type`, such as "text/css"."""
    etag: str

    def answer(self, request: Request) -> Response:
        headers = {**HEADERS, "etag": self.etag}
        if self.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(self.compressed, headers={**headers, "content-encoding": "gzip"}, media_type=self.kind)
        return Response(self.content, headers=headers, media_type=self.kind)


class Assets:
    """The files of the console's page, by name."""

    def __init__(self) -> None:
        self._assets = {
            file.name: _asset(file.name, file.read_bytes())
            for file in files(__package__).joinpath("assets").iterdir()
            if file.name.rpartition(".")[2] in CONTENT_TYPES
        }

    def find(self, name: str) -> Asset:
        """Returns a file of the page by its name; raises NotFound if there is none of that name."""
        asset = self._assets.get(name)
        if asset is None:
            raise NotFound(f"the console has no file '{name[:100]}'", code="unknown_route")
        return asset


def _asset(name: str, content: bytes) -> Asset:
    etag = f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'
    return Asset(content, gzip.compress(content, mtime=0), CONTENT_TYPES[name.rpartition(".")[2]], etag)


async def page(request: Request) -> Response:
    assets: Assets = request.app.state.console_assets
    return assets.find("index.html").answer(request)


async def asset(name: str, request: Request) -> Response:
    assets: Assets = request.app.state.console_assets
    return assets.find(name).answer(request)


async def without_slash(request: Request) -> Response:
    return RedirectResponse("../console", status_code=308)
