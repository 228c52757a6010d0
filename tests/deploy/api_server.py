"""A read-only Kubernetes API server: it lists kinds and returns given objects."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.ports import serving

Object = dict[str, Any]
NOT_FOUND = {"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}


@contextmanager
def api_server(kinds: Iterable[tuple[str, str]], objects: Iterable[Object]) -> Iterator[str]:
    """Serves these kinds (pairs of apiVersion and kind), and `objects` in the namespace `pointsman`; yields the
    server's address.
    """
    documents = {"/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.0"}, **_discovery(set(kinds))}
    for object in objects:
        documents[_path(object)] = object

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = documents.get(self.path.partition("?")[0])
            body = json.dumps(found or NOT_FOUND).encode()
            self.send_response(200 if found else 404)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *words: Any) -> None:
            pass

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        yield url


def _discovery(kinds: set[tuple[str, str]]) -> dict[str, Object]:
    resources = defaultdict(list)
    for version, kind in sorted(kinds):
        resources[version].append({"name": _plural(kind), "kind": kind, "namespaced": True, "verbs": ["get"]})
    lists = {
        _root(version): {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": found}
        for version, found in resources.items()
    }
    groups = []
    for version in resources:
        group, _, number = version.rpartition("/")
        if group:
            preferred = {"groupVersion": version, "version": number}
            groups.append({"name": group, "versions": [preferred], "preferredVersion": preferred})
    return {
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups},
        **lists,
    }


def _path(object: Object) -> str:
    name = object["metadata"]["name"]
    return f"{_root(object['apiVersion'])}/namespaces/pointsman/{_plural(object['kind'])}/{name}"


def _root(version: str) -> str:
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


def _plural(kind: str) -> str:
    return f"{kind.lower()[:-1]}ies" if kind.endswith("cy") else f"{kind.lower()}{'es' if kind.endswith('s') else 's'}"
