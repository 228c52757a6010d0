"""`pointsman datasets build` on the example: it makes a folder, named by a hash of its content, with a description."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

EXAMPLE = Path(__file__).parents[2] / "examples" / "helpdesk"
HOME = Path(__file__).parents[2] / ".pointsman"


def test_the_examples_of_a_task_make_its_first_data_set(cli: Callable[..., Any], tmp_path: Path) -> None:
    made = cli("datasets", "build", "triage", "--config", EXAMPLE, "--out", tmp_path, "--data-dir", HOME, "--json")
    assert made.code == 0, made.err
    facts = json.loads(made.out)
    folder, counts = Path(facts["folder"]), facts["manifest"]["counts"]
    assert folder == tmp_path / "triage" / facts["manifest"]["name"]
    assert counts["train"] > 3 * counts["heldout"] > 0
    assert facts["manifest"]["sources"]["train"] == {"example": counts["train"]}
    assert len((folder / "train.jsonl").read_text().splitlines()) == counts["train"]


def test_a_task_without_a_training_configuration_is_refused_by_name(cli: Callable[..., Any], tmp_path: Path) -> None:
    refused = cli("datasets", "build", "chat", "--config", EXAMPLE, "--out", tmp_path, "--data-dir", HOME)
    assert refused.code == 1
    assert "tasks.yaml: task 'chat' has no flywheel" in refused.err


def test_what_is_missing_is_looked_for_in_the_file_that_is_there(cli: Callable[..., Any], tmp_path: Path) -> None:
    minimal = EXAMPLE.parent / "minimal"
    task = next(iter(yaml.safe_load((minimal / "pointsman.yaml").read_text())["tasks"]))
    refused = cli("datasets", "build", task, "--config", minimal, "--out", tmp_path, "--data-dir", HOME)
    assert f"pointsman.yaml: task '{task}' has no flywheel" in refused.err


def test_without_a_configuration_the_required_option_is_named(cli: Callable[..., Any], tmp_path: Path) -> None:
    refused = cli("datasets", "build", "triage", "--data-dir", tmp_path)
    assert refused.code == 2
    assert "--config" in refused.err
