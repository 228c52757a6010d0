"""Code blocks of README.md and docs/: YAML is loaded by the configuration's own types, shell is parsed.

A block that cannot be loaded says why in a comment on the line before it: `<!-- not loaded: REASON -->`.
"""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pointsman_cli.example import ExampleFile
from pointsman_gateway.config.load import load_config
from pointsman_gateway.config.models_file import ModelsFile
from pointsman_gateway.config.tasks_file import PathsFile, TaskConfig, TasksFile
from pointsman_servicekit import strict_yaml
from pydantic import BaseModel, TypeAdapter

from tests.extension_examples import ROOT

TESTED_ELSEWHERE = {
    "extending.md": "tests/test_extending.py",
    "kubernetes.md": "tests/deploy/test_chart.py and test_manifests.py",
}
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
PROGRAMS = {
    "apt-get", "cp", "curl", "docker", "export", "git", "helm", "kubectl", "make", "openssl", "pip", "pointsman",
    "prometheus", "prometheus-alertmanager", "promtool", "python", "python3", "sed", "vllm",
}  # fmt: skip
EXEMPT = re.compile(r"<!-- not loaded: .{10,} -->\n$")


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    text: str
    exempt: bool

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks() -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text()
        for found in re.finditer(r"^```(\S*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            before = text[: found.start()]
            yield Block(page, before.count("\n") + 1, found[1], found[2], bool(EXEMPT.search(before)))


def first_word(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    words = [word for word in lines[0].split() if not re.match(r"[A-Z_]+=", word)] if lines else []
    return words[0].rpartition("/")[2] if words else ""


ALL = list(blocks())
YAML = [
    block for block in ALL if block.language == "yaml" and not block.exempt and block.page.name not in TESTED_ELSEWHERE
]
SHELL = [
    block
    for block in ALL
    if block.language in ("bash", "sh") or (not block.language and first_word(block.text) in PROGRAMS)
]


def type_of(shape: type[BaseModel], key: str) -> TypeAdapter[Any]:
    annotation: Any = shape.model_fields[key].annotation
    return TypeAdapter(annotation)


def validate(key: str, value: Any) -> None:
    """Validates a part of a configuration by the type of its key. Required keys may be missing."""
    if key == "tasks":
        value = {name: {"examples": "rows.jsonl", "policy": {"fixed": "one"}} | task for name, task in value.items()}
    for shape in (ModelsFile, PathsFile, TasksFile):
        if key in shape.model_fields:
            type_of(shape, key).validate_python(value)
            return
    if key in ExampleFile.model_fields:
        type_of(ExampleFile, key).validate_python(value)
    elif key in TaskConfig.model_fields:
        type_of(TaskConfig, key).validate_python(value)
    elif key != "prompts":
        type_of(PathsFile, "paths").validate_python({"one": {"model": "small", key: value}})


@pytest.mark.parametrize("block", YAML, ids=str)
def test_yaml_is_a_valid_part_of_a_configuration(block: Block, tmp_path: Path) -> None:
    content = strict_yaml.load(block.text)
    assert isinstance(content, dict)
    if {"models", "engines", "paths", "tasks"} <= content.keys():
        (tmp_path / "pointsman.yaml").write_text(block.text)
        load_config(tmp_path, {})
    for key, value in content.items():
        validate(key, value)


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_shell_is_parsed_by_bash(block: Block) -> None:
    text = re.sub(r"<[A-Za-z_]+>", "X", block.text)
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_yaml_block_is_labelled() -> None:
    unlabelled = [str(block) for block in ALL if not block.language and re.match(r"^[a-z_]+:( |$)", block.text)]
    assert unlabelled == []


def test_the_readmes_quickstart_is_what_the_test_runs() -> None:
    (quickstart,) = (block for block in SHELL if block.page.name == "README.md" and "--engine" in block.text)
    commands = [line.split("  ")[0] for line in quickstart.text.splitlines()]
    tested = (ROOT / "tests/quickstart/test_quickstart.py").read_text()
    assert commands[0] == "python3 -m venv env"
    assert commands[1] == "env/bin/pip install pointsman"
    assert '"-m", "venv", "env"' in tested
    assert '"env/bin/pip", "install", "-q", "--find-links", str(WHEELS), "pointsman"' in tested
    assert 'pointsman, "up", "--engine"' in tested
    assert len(commands) <= 6
