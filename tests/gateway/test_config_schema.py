"""The committed JSON Schemas are up to date, the examples conform to them, and they detect mistakes."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pointsman_lab.config_schema import schemas

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "examples" / "schema"
FILES = [
    ROOT / "examples" / "minimal" / "pointsman.yaml",
    *(ROOT / "examples" / "helpdesk" / "config" / f"{name}.yaml" for name in ("models", "paths", "tasks")),
]


class PlainLoader(yaml.SafeLoader):
    """Loads dates as strings, as the YAML support of editors does."""


PlainLoader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:timestamp"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load(text: str) -> Any:
    return yaml.load(text, PlainLoader)


def problems(kind: str, data: Any) -> list[str]:
    """Returns the JSON paths of the values that the schema rejects."""
    validator = jsonschema.Draft7Validator(json.loads((SCHEMAS / f"{kind}.schema.json").read_text()))
    return [error.json_path for error in validator.iter_errors(data)]


def test_the_committed_schemas_are_the_generated_ones() -> None:
    committed = {file.name.partition(".")[0]: json.loads(file.read_text()) for file in SCHEMAS.iterdir()}
    assert committed == schemas(), "run `make schema`"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_an_example_conforms_and_names_its_schema(file: Path) -> None:
    text = file.read_text()
    named = re.search(r"^# yaml-language-server: \$schema=(\S+)$", text, re.MULTILINE)
    assert named
    assert (file.parent / named[1]).resolve() == SCHEMAS / f"{file.stem}.schema.json"
    assert problems(file.stem, load(text)) == []


def test_the_configurations_on_the_how_to_page_conform() -> None:
    page = "".join((ROOT / "docs" / name).read_text() for name in ("own-vllm.md", "engines.md"))
    blocks = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert [problems("pointsman", load(block)) for block in blocks if "tasks:" in block] == [[], []]


MISTAKES: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda d: d["engines"]["openai"].update(provider="azur"), "$.engines.openai.provider"),
    (lambda d: d["engines"]["openai"].update(modl="x"), "$.engines.openai"),
    (lambda d: d["models"]["gpt-4o-mini"].update(usd_per_million_tokens="free"), "$.models['gpt-4o-mini']"),
    (lambda d: d["paths"]["triage"].update(temperature="hot"), "$.paths.triage.temperature"),
    (lambda d: d["tasks"]["triage"].update(policy={"fixd": "triage"}), "$.tasks.triage.policy"),
    (lambda d: d["tasks"]["triage"].update(examples=[{"txt": "x"}]), "$.tasks.triage.examples"),
    (lambda d: d.pop("paths"), "$"),
]


@pytest.mark.parametrize(("bend", "place"), MISTAKES)
def test_a_mistake_is_found_at_its_place(bend: Callable[[dict[str, Any]], object], place: str) -> None:
    data = load(FILES[0].read_text())
    bend(data)
    assert any(found.startswith(place) for found in problems("pointsman", data)), problems("pointsman", data)


def test_an_extension_of_the_users_own_is_allowed() -> None:
    data = load(FILES[0].read_text())
    data["tasks"]["triage"]["policy"] = {"my_package.policies:Cheapest": {"paths": ["triage"]}}
    assert problems("pointsman", data) == []
