"""Generates the site's reference pages from the code: `python -m deploy.docs.reference FOLDER`."""

import argparse
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import typer
import typer.cli
import typer.main
from pointsman_cli.app import build_app
from pointsman_embedding.prepare import prepare
from pointsman_gateway.http.app import build_api
from pointsman_gateway.settings import Settings as GatewaySettings
from pointsman_lab.config_schema import schemas
from pointsman_lora_server.settings import Settings as LoraSettings
from pointsman_retriever.settings import Settings as RetrieverSettings
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from deploy.docs.sources import build_grpc_page, build_registries, error_codes, families

ROOT = Path(__file__).parents[2]
MODEL = ROOT / ".pointsman" / "models" / "minilm"
SERVICES: Mapping[str, type[BaseSettings]] = {
    "gateway": GatewaySettings,
    "retriever": RetrieverSettings,
    "lora-server": LoraSettings,
}
_COMMANDS = {
    "POINTSMAN_API_KEY": "the key that `eval` and `retrain` send to the gateway",
    "POINTSMAN_CLIENT_TLS_CA": "PEM file; commands then use TLS for gRPC",
    "POINTSMAN_CLIENT_TLS_CERTIFICATE": "PEM file of a client certificate",
    "POINTSMAN_CLIENT_TLS_KEY": "PEM file of its key",
    "POINTSMAN_CLIENT_TLS_SERVER_NAME": "the name in the service's certificate, if it differs from the address",
    "POINTSMAN_CLIENT_TOKEN_FILE": "file with the token that commands send to retriever and lora-server",
    "POINTSMAN_ENGINE_SECRET": "the secret of the engine's guard, for `conformance swap --control guard`",
    "POINTSMAN_ENGINE_PYTHON": "the Python of the engine's environment, for `up` and `train`",
    "POINTSMAN_TRACEBACK": "`1`: a command that fails unexpectedly prints its traceback",
}
_LINK = re.compile(r"\[(\w+)\]\(#\w+\)")
_EMPTY: tuple[object, ...] = (None, "", [], {}, PydanticUndefined)


def table(headings: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Returns a Markdown table with these headings and rows."""
    headings = list(headings)
    lines = [headings, ["---"] * len(headings), *(list(map(_cell, row)) for row in rows)]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")


def _code(value: object) -> str:
    return f"`{value}`" if value not in _EMPTY else ""


# -- settings and configuration


def settings_page() -> str:
    parts = ["# Settings\n\nEnvironment variables of the services and of the command.\n"]
    for service, settings in SERVICES.items():
        prefix = settings.model_config["env_prefix"]
        rows = [
            (f"`{prefix}{name.upper()}`", _code(field.default), field.description or "")
            for name, field in settings.model_fields.items()
        ]
        parts.append(f"## {service}\n\n{table(('variable', 'default', 'meaning'), rows)}")
    rows = [(f"`{name}`", "", text) for name, text in _COMMANDS.items()]
    return "\n".join([*parts, f"## pointsman\n\n{table(('variable', 'default', 'meaning'), rows)}"])


def configuration_page() -> str:
    schema = schemas()["pointsman"]
    parts = [
        "# Configuration schema\n\nThe keys of `pointsman.yaml`, or of `models.yaml`, `paths.yaml` and `tasks.yaml`. "
        "Editors complete and check them with the JSON Schemas in `examples/schema`.\n",
        _keys("The file", schema),
    ]
    return "\n".join([*parts, *(_keys(name, shape) for name, shape in sorted(schema["$defs"].items()))])


def _keys(title: str, shape: Mapping[str, Any]) -> str:
    required = shape.get("required", ())
    rows = [
        (
            f"`{name}`",
            _type(value),
            "required" if name in required else _code(json.dumps(value["default"]) if value.get("default") else ""),
            value.get("description", ""),
        )
        for name, value in shape.get("properties", {}).items()
    ]
    text = shape.get("description", "")
    values = f"One of {', '.join(f'`{value}`' for value in shape['enum'])}.\n" if "enum" in shape else ""
    return f"## {title}\n\n{text}\n\n{values}{table(('key', 'type', 'default', 'meaning'), rows) if rows else ''}"


def _type(value: Mapping[str, Any]) -> str:
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if parts := value.get("anyOf") or value.get("oneOf") or value.get("allOf"):
        return " or ".join(dict.fromkeys(_type(part) for part in parts))
    if "enum" in value or "const" in value:
        return " or ".join(f"`{one}`" for one in value.get("enum", [value.get("const")]))
    if value.get("type") == "array":
        return f"list of {_type(value.get('items', {}))}"
    inner = next(iter(value.get("patternProperties", {}).values()), value.get("additionalProperties"))
    if isinstance(inner, dict):
        return f"names with {_type(inner)}"
    return str(value.get("type", "any"))


# -- interfaces


def cli_page() -> str:
    command: Any = typer.main.get_command(build_app())
    text = typer.cli.get_docs_for_click(
        obj=command, ctx=typer.Context(command, info_name="pointsman"), name="pointsman"
    )
    return f"# Command line\n\n{re.sub('^# .*$', '', text, count=1, flags=re.MULTILINE)}"


def http_page() -> str:
    state: Any = SimpleNamespace(has_metrics_port=False, console=None)
    document = build_api(state).openapi()
    parts = ["# HTTP routes\n\nFrom `/openapi.json`, which has the complete schemas.\n"]
    for route, methods in document["paths"].items():
        for method, operation in methods.items():
            parts.append(f"## {method.upper()} {route}\n\n{operation.get('description') or operation['summary']}\n")
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            if body:
                parts.append(_body(body, document["components"]["schemas"]))
            answers = [(code, answer["description"]) for code, answer in operation["responses"].items()]
            parts.append(table(("status", "answer"), answers))
    return "\n".join(parts)


def _body(body: Mapping[str, Any], shapes: Mapping[str, Any]) -> str:
    shape = shapes[body["$ref"].rpartition("/")[2]] if "$ref" in body else body
    rows = [
        (f"`{name}`", _LINK.sub(r"\1", _type(value)), value.get("description", ""))
        for name, value in shape.get("properties", {}).items()
    ]
    return table(("field", "type", "meaning"), rows)


def metrics_page() -> str:
    prepare(MODEL)
    parts = ["# Metrics\n\nThe names have the suffixes that Prometheus adds: `_total` of counters.\n"]
    for service, registry in build_registries(MODEL).items():
        rows = sorted(
            (
                f"`{family.name}{'_total' if family.type == 'counter' else ''}`",
                family.type,
                ", ".join(f"`{label}`" for label in labels),
                family.documentation,
            )
            for family, labels in families(registry)
        )
        parts.append(f"## {service}\n\n{table(('metric', 'type', 'labels', 'meaning'), rows)}")
    return "\n".join(parts)


def errors_page() -> str:
    rows = [
        (f"`{code}`", error.http, f"`{error.grpc}`", ", ".join(sorted(error.services)), error.message)
        for code, error in sorted(error_codes().items())
    ]
    headings = ("code", "HTTP", "gRPC", "from", "message, with … for values")
    return f"# Error codes\n\n`error.code` over HTTP, and `ErrorInfo.reason` over gRPC.\n\n{table(headings, rows)}"


PAGES: Mapping[str, Callable[[], str]] = {
    "configuration": configuration_page,
    "settings": settings_page,
    "cli": cli_page,
    "http": http_page,
    "grpc": build_grpc_page,
    "metrics": metrics_page,
    "errors": errors_page,
}


def write(folder: Path) -> Iterator[Path]:
    """Writes the reference pages to the folder and yields their files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (folder / f"{name}.md").write_text(page().rstrip() + "\n")
        yield folder / f"{name}.md"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m deploy.docs.reference", description=__doc__)
    parser.add_argument("folder", type=Path)
    for file in write(parser.parse_args().folder):
        print(file)
