"""A page that is encoded and compressed once, and whose bytes all responses share."""

import gzip
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SharedPage:
    """The body of a response, plain (`text`) and compressed by gzip."""

    text: bytes
    compressed: bytes
    content_type: str

    def respond(self, accept_encoding: str) -> tuple[dict[str, str], bytes]:
        """Returns the headers and the body of a response.

        The body is compressed if `accept_encoding`, the request's header Accept-Encoding, accepts gzip.
        """
        headers = {"content-type": self.content_type, "vary": "accept-encoding"}
        if _accepts_gzip(accept_encoding):
            return headers | {"content-encoding": "gzip"}, self.compressed
        return headers, self.text


def to_shared_page(text: bytes, content_type: str) -> SharedPage:
    return SharedPage(text, gzip.compress(text, compresslevel=1, mtime=0), content_type)


def _accepts_gzip(accept_encoding: str) -> bool:
    """Returns whether an Accept-Encoding header names gzip, and not with `q=0`."""
    for coding in accept_encoding.split(","):
        name, _, quality = coding.partition(";")
        if name.strip().lower() == "gzip":
            return not quality or quality.strip(" q=0.") != ""
    return False
