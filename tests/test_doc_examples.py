"""YAML blocks of README.md and docs/ are loaded with the configuration's own types; shell blocks are parsed.

`documents/test_commands.py` runs the shell blocks.
"""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pointsman_cli.example import ExampleFile
from pointsman_gateway.config.access_file import AccessFile
from pointsman_gateway.config.load import load_config
from pointsman_gateway.config.models_file import ModelsFile
from pointsman_gateway.config.paths_file import PathsFile
from pointsman_gateway.config.tasks_file import TaskConfig, TasksFile
from pointsman_servicekit import strict_yaml
from pydantic import BaseModel, TypeAdapter

from tests.doc_blocks import BLOCKS, ROOT, SHELL, Block

TESTED_ELSEWHERE = {
    "extending.md": "tests/test_extending.py",
    "kubernetes.md": "tests/deploy/test_chart.py, test_first_installation.py and test_manifests.py",
}
YAML = [
    block for block in BLOCKS if block.language == "yaml" and not block.mark and block.page.name not in TESTED_ELSEWHERE
]


def type_of(shape: type[BaseModel], key: str) -> TypeAdapter[Any]:
    annotation: Any = shape.model_fields[key].annotation
    return TypeAdapter(annotation)


def validate(key: str, value: Any) -> None:
    """Validates a part of a configuration by the type of its key. Required keys may be missing."""
    if key == "tasks":
        value = {name: {"examples": "rows.jsonl", "policy": {"fixed": "one"}} | task for name, task in value.items()}
    for shape in (ModelsFile, PathsFile, TasksFile, AccessFile):
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


def test_every_block_is_labelled_with_its_language() -> None:
    assert [str(block) for block in BLOCKS if not block.language] == []


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
