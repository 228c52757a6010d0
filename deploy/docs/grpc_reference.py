"""Makes the reference page of the gRPC interfaces, from `proto/` with its comments."""

import tempfile
from collections.abc import Iterator
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

PROTO = Path(__file__).parents[2] / "proto"
_GOOGLE = Path(grpc_tools.__file__).parent / "_proto"
_MESSAGE, _SERVICE, _PART = 4, 6, 2
"""Field numbers in descriptor.proto; the path of a comment is a list of them."""

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
        names = [str(file.relative_to(PROTO)) for file in sorted(PROTO.rglob("*.proto"))]
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
    for number, field in enumerate(message.field):
        meaning = _safe(comments.get((*path, _PART, number), "")).replace("|", "\\|")
        yield f"| `{field.name}` = {field.number} | {_type(field)} | {meaning} |"
    yield ""


def _type(field: FieldDescriptorProto) -> str:
    kind = _short(field.type_name) or FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    return f"repeated {kind}" if field.label == FieldDescriptorProto.LABEL_REPEATED else kind


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def _safe(text: str) -> str:
    return text.replace("<", "&lt;")
