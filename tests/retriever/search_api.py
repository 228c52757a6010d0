"""A double of the search APIs that Elasticsearch and OpenSearch document: mappings, count, `match` and kNN queries.

No Python package contains either server, so a double is needed. Scores follow their manuals: BM25-like for words, and
(1 + cosine) / 2 for vectors. A body with an unknown key is answered with 400, as by the real servers.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ssl import SSLContext
from typing import Any

import numpy as np

from tests.ports import serving

Index = Mapping[str, Any]
ELASTICSEARCH_KEYS = {"query", "knn", "size", "_source"}
OPENSEARCH_KEYS = {"query", "size", "_source"}


@contextmanager
def search_server(
    index: str, mapping: Index, documents: Mapping[str, Index], keys: set[str], tls: SSLContext | None = None
) -> Iterator[str]:
    """Yields the URL of a server with one index."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer({})

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}"))

        def _answer(self, body: dict[str, Any]) -> None:
            status, content = _respond(self.path.partition("?")[0], body)
            text = json.dumps(content).encode()
            self.send_response(status)
            kind = self.headers.get("accept", "application/json").partition(",")[0]
            self.send_header("content-type", kind if "json" in kind else "application/json")
            self.send_header("x-elastic-product", "Elasticsearch")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            """Writes no access log."""

    def _respond(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/":
            return 200, {"version": {"number": "9.1.0"}, "tagline": "You Know, for Search"}
        name, _, action = path.strip("/").partition("/")
        if name != index:
            return 404, {"error": {"type": "index_not_found_exception", "reason": f"no such index [{name}]"}}
        if action == "_mapping":
            return 200, {index: {"mappings": mapping}}
        if action == "_count":
            return 200, {"count": len(documents)}
        unknown = body.keys() - keys
        if unknown:
            return 400, {"error": {"type": "parsing_exception", "reason": f"unknown key for {min(unknown)}"}}
        hits = sorted(_hits(body, documents), key=lambda hit: -hit["_score"])[: body.get("size", 10)]
        return 200, {"hits": {"total": {"value": len(hits)}, "hits": hits}}

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    with serving(server) as url:
        yield url.replace("http:", "https:") if tls else url


def _hits(body: dict[str, Any], documents: Mapping[str, Index]) -> Iterator[dict[str, Any]]:
    for number, document in documents.items():
        score = _score(body, document)
        if score:
            yield {"_id": number, "_score": score, "_source": {name: document[name] for name in body["_source"]}}


def _score(body: dict[str, Any], document: Index) -> float:
    query = body.get("query", {})
    if "match" in query:
        ((field, asked),) = query["match"].items()
        wanted, there = (set(re.findall(r"\w+", text.lower())) for text in (asked["query"], document[field]))
        return float(len(wanted & there) / len(there) ** 0.5)
    if "knn" in body:
        field, vector = body["knn"]["field"], body["knn"]["query_vector"]
    else:
        ((field, of),) = query["knn"].items()
        vector = of["vector"]
    return (1 + float(np.dot(vector, document[field]))) / 2
