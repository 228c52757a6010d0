"""The documentation site has a complete reference, leads to every page, and shows current diagrams."""

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from pointsman.v1 import gateway_pb2, lora_server_pb2, retriever_pb2, training_pb2
from pointsman_cli.app import build_app

from deploy.docs import reference
from deploy.docs.sources import build_grpc_page, error_codes

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
DIAGRAMS = sorted(DOCS.glob("*.dot"))


def commands(command: Any, name: str) -> Iterator[str]:
    yield name
    for child in getattr(command, "commands", {}).values():
        yield from commands(child, f"{name} {child.name}")


def pages_of(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
        return
    for child in entry.values() if isinstance(entry, dict) else entry:
        yield from pages_of(child)


def test_the_reference_has_every_setting_and_command() -> None:
    settings, text = reference.settings_page(), reference.cli_page()
    for service in reference.SERVICES.values():
        prefix = service.model_config["env_prefix"]
        assert all(f"`{prefix}{name.upper()}`" in settings for name in service.model_fields)
    sources = "\n".join(file.read_text() for file in (ROOT / "cli/src").rglob("*.py"))
    own = re.findall(r"\bPOINTSMAN_(?:CLIENT|ENGINE|API|TRACEBACK)\w*[A-Z]\b", sources)
    assert [name for name in sorted(set(own)) if f"`{name}`" not in settings] == []
    named = list(commands(typer.main.get_command(build_app()), "pointsman"))
    assert len(named) > 40
    assert [name for name in named[1:] if f"## `{name}`" not in text] == []


def test_the_reference_has_every_route_call_and_key() -> None:
    http, grpc, configuration = reference.http_page(), build_grpc_page(), reference.configuration_page()
    assert {"## POST /v1/chat/completions", "## GET /v1/models", "## POST /v1/feedback"} <= set(http.splitlines())
    assert "| `max_completion_tokens` | integer or null |" in http
    for file in (gateway_pb2, lora_server_pb2, retriever_pb2, training_pb2):
        for service in file.DESCRIPTOR.services_by_name.values():
            assert all(f"`{method.name}(" in grpc for method in service.methods)
        assert all(f"### {name}\n" in grpc for name in file.DESCRIPTOR.message_types_by_name)
    assert "| `temperature` |" in configuration
    assert "## PathConfig\n" in configuration
    assert "[PathConfig](#pathconfig)" in configuration


def test_the_reference_has_the_metrics_of_all_services() -> None:
    page = reference.metrics_page()
    for metric in ("pointsman_requests_total", "pointsman_quota_leases", "pointsman_retriever_upserts_total"):
        assert f"| `{metric}` |" in page
    assert "| `pointsman_decisions_total` | counter | `path`, `task`, `reason` |" in page


def test_the_reference_has_the_error_codes_that_the_pages_explain() -> None:
    codes = error_codes()
    assert (codes["unknown_model"].http, codes["unknown_model"].grpc) == (404, "NOT_FOUND")
    assert codes["alias_moved"].services == {"lora-server"}
    assert codes["missing_key"].http == 401
    rejections = (DOCS / "adapters.md").read_text().split("## Rejections and remedies")[1].split("\n## ")[0]
    rows = [row.split("|")[1] for row in rejections.splitlines() if row.startswith("| `")]
    explained = {code for row in rows for code in re.findall(r"`(\w+)`", row)}
    assert len(explained) > 20
    assert explained - codes.keys() == set()


def test_the_navigation_leads_to_every_page() -> None:
    text = (ROOT / "deploy/docs/mkdocs.yml").read_text()
    named = set(pages_of(yaml.safe_load(text)["nav"]))
    listed = {page for name in named for page in ([name] if "*" not in name else map(str, DOCS.glob(name)))}
    missing = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} - {
        str(Path(page).relative_to(DOCS)) if Path(page).is_absolute() else page for page in listed
    }
    assert missing == set()
    assert {name for name in named if name.startswith("reference/")} == {
        f"reference/{name}.md" for name in reference.PAGES
    }


@pytest.mark.parametrize("source", DIAGRAMS, ids=lambda source: source.stem)
def test_a_diagram_is_drawn_from_its_source_and_shown(source: Path) -> None:
    text, drawn = source.read_text(), html.unescape(source.with_suffix(".svg").read_text())
    labels = [line for label in re.findall(r'label="([^"]+)"', text) for line in label.split(r"\n")]
    assert labels
    assert [label for label in labels if f">{label}</text>" not in drawn] == []
    arrows = re.sub(r"//.*|\[[^\]]*\]", "", text)
    assert arrows.count("->") > 0
    assert f"]({source.stem}.svg)" in (DOCS / f"{source.stem}.md").read_text()


def test_there_are_six_concepts_with_a_diagram_each() -> None:
    nav = yaml.safe_load((ROOT / "deploy/docs/mkdocs.yml").read_text())["nav"]
    (concepts,) = (entry["Concepts"] for entry in nav if "Concepts" in entry)
    assert sorted(pages_of(concepts)) == [f"{source.stem}.md" for source in DIAGRAMS]
