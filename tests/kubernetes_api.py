"""A Kubernetes API server's double, over TLS with tokens: it gets, lists, watches, applies, creates and deletes objects
of any kind, and streams the logs of pods.
"""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from tests.gateway.doubles.certificates import Authority

Object = dict[str, Any]

POOLS = "apis/inference.networking.k8s.io/v1"
KINDS = ("pods", "configmaps", "events", "inferencepools", "jobs", "trainjobs")
REASONS = {401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 409: "Conflict", 410: "Expired"}
REASONS |= {400: "BadRequest", 429: "TooManyRequests", 503: "ServiceUnavailable"}


@dataclass(frozen=True)
class Event:
    version: int
    kind: str
    """ADDED, MODIFIED or DELETED."""
    path: str
    """The path of the object's collection, such as api/v1/namespaces/models/pods."""
    object: Object
    before: Object | None
    """The object before the change."""


@dataclass
class KubernetesDouble:
    """Objects by the path of their collection and their name, and all of their changes."""

    service_account: Path
    """The folder with the token that clients must send, as a pod has it."""
    host: str = "127.0.0.1"
    port: int = 0
    objects: dict[str, dict[str, Object]] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    version: int = 100
    oldest: int = 0
    """The oldest version from which a watch may start; an older one is answered with 410."""
    forbidden: set[tuple[str, str]] = field(default_factory=set)
    """Pairs of verb and resource, such as ("list", "pods"), that are answered with 403."""
    kinds: set[str] = field(
        default_factory=lambda: {"pods", "configmaps", "inferencepools", "jobs", "trainjobs", "events"}
    )
    """Resources that the cluster knows."""
    replaces_token_after: str = ""
    """The request, such as "get inferencepools", after which Kubernetes replaces the token."""
    garbled: tuple[int, Mapping[str, str], bytes] | None = None
    """Status, headers and body with which all requests are answered instead, as by a proxy before the server."""
    ends_watches: bool = False
    """Whether each watch ends at once, without an error."""
    conflicts: int = 0
    """How many of the next writes are answered with 409."""
    is_silent: bool = False
    requests: list[str] = field(default_factory=list)
    """Verb and resource of each request, such as "watch pods"."""
    writes: list[tuple[Mapping[str, str], Object]] = field(default_factory=list)
    """The query and the body of each write that was accepted."""
    logs: dict[str, list[str]] = field(default_factory=dict)
    """The lines "TIME TEXT" of each pod's log, by the pod's name."""
    refusals: list[tuple[str, int]] = field(default_factory=list)
    """Requests, such as "get jobs", each of which is answered once with a status."""
    unconfirmed: set[str] = field(default_factory=set)
    """Creations, such as "create jobs", that are made and not answered."""
    broken_logs: int = 0
    """How many of the next logs end with their first line, because the connection breaks."""
    controllers: dict[str, Callable[[str, Object], None]] = field(default_factory=dict)
    """Functions that are called with the namespace and each object that is created, by the resource, such as jobs."""
    deletions: list[tuple[str, str, str]] = field(default_factory=list)
    """Resource, name and propagation policy of each deletion."""
    watchers: dict[asyncio.Task[Any], web.Request] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def token(self) -> str:
        return (self.service_account / "token").read_text()

    def put(self, root: str, resource: str, namespace: str, object: Object) -> None:
        """Creates or replaces an object, such as put("api/v1", "pods", "models", {...})."""
        path = f"{root}/namespaces/{namespace}/{resource}"
        self._change(path, object["metadata"]["name"], deepcopy(object))

    def delete(self, root: str, resource: str, namespace: str, name: str) -> None:
        self._change(f"{root}/namespaces/{namespace}/{resource}", name, None)

    def compact(self) -> None:
        """Forgets all changes: watches that have not seen the newest must start anew."""
        self.version += 1
        self.oldest = self.version

    def disconnect(self) -> None:
        """Aborts the connections of all watches in the middle of their answers."""
        for request in self.watchers.values():
            assert request.transport
            request.transport.abort()

    def _change(self, path: str, name: str, object: Object | None) -> None:
        self.version += 1
        collection = self.objects.setdefault(path, {})
        before = collection.pop(name, None)
        if object is not None:
            collection[name] = object
        newest = object or before
        assert newest is not None
        newest = deepcopy(newest)
        newest["metadata"]["resourceVersion"] = str(self.version)
        if object is not None:
            collection[name] = newest
        kind = "DELETED" if object is None else "MODIFIED" if before else "ADDED"
        self.events.append(Event(self.version, kind, path, newest, before))
        self.changed.set()
        self.changed = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        root, _, rest = request.path.strip("/").partition("/namespaces/")
        namespace, resource, name, sub = [*rest.split("/"), "", "", ""][:4]
        path, watches = f"{root}/namespaces/{namespace}/{resource}", request.query.get("watch") == "true"
        verb = {"GET": "get" if name else "watch" if watches else "list"}.get(request.method, request.method.lower())
        verb = "create" if verb == "post" else verb
        resource = f"{resource}/{sub}" if sub else resource
        self.requests.append(f"{verb} {resource}")
        if self.is_silent:
            await asyncio.Event().wait()
        if request.headers.get("authorization") != f"Bearer {self.token}":
            return _refused(401, "Unauthorized")
        if self.garbled:
            status, headers, text = self.garbled
            return web.Response(status=status, headers=headers, body=text)
        if self.requests[-1] == self.replaces_token_after:
            self.replaces_token_after = ""
            (self.service_account / "token").write_text(f"{self.token}-replaced")
        for refusal in [each for each in self.refusals if each[0] == self.requests[-1]][:1]:
            self.refusals.remove(refusal)
            return _refused(refusal[1], f"{self.requests[-1]} is refused once")
        if (verb, resource) in self.forbidden:
            return _refused(403, f'{resource} is forbidden: cannot {verb} resource "{resource}" in "{namespace}"')
        if resource.partition("/")[0] not in self.kinds:
            return web.Response(status=404, text="404 page not found\n")
        if verb == "watch":
            return await self._watch(request, path)
        if verb == "patch":
            return await self._apply(request, path, name)
        objects = self.objects.get(path, {})
        if verb == "create":
            return await self._create(request, path, namespace, resource)
        if verb == "delete":
            return self._delete(request, path, resource, name)
        if sub == "log":
            return await self._log(request, name)
        if verb == "list":
            items = [each for each in objects.values() if _matches(each, request)]
            return _json({"items": items, "metadata": {"resourceVersion": str(self.version)}})
        return _json(objects[name]) if name in objects else _missing(resource, name)

    async def _create(self, request: web.Request, path: str, namespace: str, resource: str) -> web.Response:
        assert request.query["fieldManager"]
        body = await request.json()
        name = body["metadata"]["name"]
        if name in self.objects.get(path, {}):
            return _refused(409, f'{resource} "{name}" already exists')
        body["metadata"] |= {"uid": f"uid-{self.version}", "namespace": namespace}
        self.writes.append((dict(request.query), deepcopy(body)))
        self._change(path, name, body)
        if controller := self.controllers.get(resource):
            controller(namespace, deepcopy(self.objects[path][name]))
        if self.requests[-1] in self.unconfirmed:
            await asyncio.Event().wait()
        return _json(self.objects[path][name], status=201)

    def _delete(self, request: web.Request, path: str, resource: str, name: str) -> web.Response:
        """Deletes an object and, as the garbage collector does, the objects that it owns."""
        if name not in self.objects.get(path, {}):
            return _missing(resource, name)
        self.deletions.append((resource, name, request.query.get("propagationPolicy", "")))
        deleted = self.objects[path][name]
        self._change(path, name, None)
        for each, objects in self.objects.items():
            for owned in [one for one in objects.values() if _owns(deleted, one)]:
                self._change(each, owned["metadata"]["name"], None)
        return _json(deleted)

    async def _log(self, request: web.Request, pod: str) -> web.StreamResponse:
        """Sends the whole log of a pod, whose time stamps are not those of this machine."""
        answer = web.StreamResponse(headers={"content-type": "text/plain"})
        await answer.prepare(request)
        for line in self.logs.get(pod, []):
            shown = line if request.query.get("timestamps") == "true" else line.partition(" ")[2]
            await answer.write(f"{shown}\n".encode())
            if self.broken_logs:
                self.broken_logs -= 1
                assert request.transport
                request.transport.abort()
                return answer
        await answer.write_eof()
        return answer

    async def _apply(self, request: web.Request, path: str, name: str) -> web.Response:
        assert request.content_type == "application/apply-patch+yaml"
        assert request.query["fieldManager"]
        body = yaml.safe_load(await request.text())
        if self.conflicts:
            self.conflicts -= 1
            return _refused(409, f"Operation cannot be fulfilled on {name}: the object has been modified")
        version = body["metadata"].pop("resourceVersion", None)
        current = self.objects.get(path, {}).get(name)
        if version is not None and (current is None or current["metadata"]["resourceVersion"] != version):
            return _refused(409, f"Operation cannot be fulfilled on {name}: the object has been modified")
        if request.query.get("force") != "true" and current and current["data"] != body["data"]:
            return _refused(409, f'Apply failed with 1 conflict: conflict with "kubectl" using {name}')
        self.writes.append((dict(request.query), deepcopy(body)))
        self._change(path, name, _merged(current or {}, body))
        return _json(self.objects[path][name])

    async def _watch(self, request: web.Request, path: str) -> web.StreamResponse:
        seen = int(request.query.get("resourceVersion", self.version))
        answer = web.StreamResponse(headers={"content-type": "application/json"})
        await answer.prepare(request)
        task = asyncio.current_task()
        assert task
        self.watchers[task] = request
        deadline = asyncio.get_running_loop().time() + float(request.query.get("timeoutSeconds", 1800))
        try:
            while not self.ends_watches and (left := deadline - asyncio.get_running_loop().time()) > 0:
                changed = self.changed
                if seen < self.oldest:
                    await _send(answer, "ERROR", _status(410, f"too old resource version: {seen} ({self.version})"))
                    break
                for event in [each for each in self.events if each.version > seen and each.path == path]:
                    if kind := _seen_kind(event, request):
                        await _send(answer, kind, event.object)
                seen = self.version
                with suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await changed.wait()
        finally:
            del self.watchers[task]
        await answer.write_eof()
        return answer


def _merged(current: Object, applied: Object) -> Object:
    """Returns the object with the applied fields, and with those that others have set."""
    both = {
        name: _merged(current[name], value) for name, value in applied.items() if isinstance(current.get(name), dict)
    }
    return {**current, **applied, **both}


def _owns(owner: Object, owned: Object) -> bool:
    uids = {each["uid"] for each in owned["metadata"].get("ownerReferences", ())}
    return owner["metadata"].get("uid") in uids


def _json(body: Object, status: int = 200) -> web.Response:
    # As the real server: without a charset.
    return web.Response(body=json.dumps(body).encode(), status=status, headers={"content-type": "application/json"})


async def _send(answer: web.StreamResponse, kind: str, object: Object) -> None:
    await answer.write(json.dumps({"type": kind, "object": object}).encode() + b"\n")


def _seen_kind(event: Event, request: web.Request) -> str:
    """Returns how a watch with a selector sees the event; empty if it does not."""
    matched = event.before is not None and _matches(event.before, request)
    if event.kind == "DELETED" or not _matches(event.object, request):
        return "DELETED" if matched else ""
    return "MODIFIED" if matched else "ADDED"


def _matches(object: Object, request: web.Request) -> bool:
    labels = object["metadata"].get("labels", {})
    fields = [(_field(object, path), value) for path, value in _selected(request, "fieldSelector")]
    return all(found == value for found, value in fields) and all(
        labels.get(name) == value for name, value in _selected(request, "labelSelector")
    )


def _selected(request: web.Request, selector: str) -> list[list[str]]:
    return [pair.split("=") for pair in request.query.get(selector, "").split(",") if pair]


def _field(object: Object, path: str) -> Any:
    """Returns the field at a path such as "involvedObject.name"."""
    for name in path.split("."):
        object = object.get(name, {})
    return object


def _status(code: int, message: str) -> Object:
    return {"kind": "Status", "status": "Failure", "code": code, "message": message, "reason": REASONS[code]}


def _refused(code: int, message: str) -> web.Response:
    return _json(_status(code, message), status=code)


def _missing(resource: str, name: str) -> web.Response:
    status = _status(404, f'{resource} "{name}" not found')
    return _json({**status, "details": {"name": name, "kind": resource}}, status=404)


@asynccontextmanager
async def running_kubernetes(folder: Path, port: int = 0) -> AsyncIterator[KubernetesDouble]:
    """Runs the double, and yields it once it answers; `folder` gets its certificates and the service account."""
    authority = Authority(folder / "tls", "kubernetes")
    signed = authority.sign("apiserver")
    account = folder / "serviceaccount"
    account.mkdir(exist_ok=True)
    (account / "token").write_text("token-1")
    (account / "namespace").write_text("pointsman")
    (account / "ca.crt").write_bytes(authority.certificate.read_bytes())
    double = KubernetesDouble(account)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", double.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(signed.certificate, signed.key)
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
    double.port = runner.addresses[0][1]
    try:
        yield double
    finally:
        await runner.cleanup()
