"""A page that is encoded and compressed once, and whose bytes are shared by all that ask for it."""

import gzip
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SharedPage:
    """The body of a response, plain and compressed."""

    text: bytes
    compressed: bytes
    content_type: str

    def respond(self, accept_encoding: str) -> tuple[dict[str, str], bytes]:
        """Returns headers and body of a response, compressed if the client accepts gzip."""
        headers = {"content-type": self.content_type, "vary": "accept-encoding"}
        if _accepts_gzip(accept_encoding):
            return headers | {"content-encoding": "gzip"}, self.compressed
        return headers, self.text


def to_shared_page(text: bytes, content_type: str) -> SharedPage:
    return SharedPage(text, gzip.compress(text, compresslevel=1, mtime=0), content_type)


def _accepts_gzip(accept_encoding: str) -> bool:
    """Reads an Accept-Encoding header; `gzip;q=0` does not accept it."""
    for coding in accept_encoding.split(","):
        name, _, quality = coding.partition(";")
        if name.strip().lower() == "gzip":
            return not quality or quality.strip(" q=0.") != ""
    return False
