"""`python -m pointsman_lab fit` trains the classifier before the gateway starts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pointsman_gateway.bootstrap.models import EmbeddingModels, origin
from pointsman_gateway.classification.classifier_file import StaleClassifier, load
from pointsman_gateway.config.load import load_config
from pointsman_lab.__main__ import main

from tests.gateway.doubles.config_folder import ConfigFolder

Fit = Callable[..., tuple[int, dict[str, Any], str]]

SAID = ["sing a song", "sing for me", "sing along", "dance a tango", "dance alone", "dance now", "hello", "good night"]
"""Three requests for each of two intents, and two for none of them."""


@pytest.fixture
def fit(model_folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Fit:
    """Runs the command; returns its exit code, the report's facts and its standard error."""
    monkeypatch.setenv("POINTSMAN_GATEWAY_EMBEDDING_MODEL", str(model_folder))

    def run(folder: Path, *options: object) -> tuple[int, dict[str, Any], str]:
        capfd.readouterr()
        code = main(["--json", "fit", str(folder), *map(str, options)])
        output = capfd.readouterr()
        return code, json.loads(output.out)["facts"] if output.out else {}, output.err

    return run


def test_the_same_examples_give_the_same_file_byte_for_byte(
    config_folder: ConfigFolder, fit: Fit, tmp_path: Path
) -> None:
    folder = config_folder.write()

    (_, first, _), (_, second, _) = fit(folder, "--out", tmp_path / "one"), fit(folder, "--out", tmp_path / "two")

    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert first["digest"] == second["digest"]


def test_the_file_goes_to_the_folder_or_the_named_place_and_its_content_is_reported(
    config_folder: ConfigFolder, fit: Fit
) -> None:
    config_folder.tasks["chat"]["target_coverage"] = 0.8

    code, found, result = fit(config_folder.write())

    assert (code, Path(found["file"])) == (0, config_folder.folder / "classifier.artifact")
    assert Path(found["file"]).stat().st_size == found["bytes"]
    assert {task["task"]: (task["examples"], task["target_coverage"]) for task in found["tasks"]} == {
        "triage": (6, 0.95), "policy": (6, 0.95), "chat": (6, 0.8),
    }  # fmt: skip
    assert found["out_of_fold"]["accuracy"] > 0.7
    assert found["out_of_fold"]["out_of_scope_abstained"] is None
    assert "embedding: 18 of 18" in result.splitlines()
    assert "learning: 12 of 12" in result.splitlines()


def test_the_number_of_each_tasks_classes_is_reported(config_folder: ConfigFolder, fit: Fit) -> None:
    folder = config_folder.write()
    rows = [{"text": text} | ({"intent": text.split()[0]} if number < 6 else {}) for number, text in enumerate(SAID)]
    (folder / "tasks" / "chat.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, found, _ = fit(folder)
    assert code == 0
    assert {task["task"]: task["classes"] for task in found["tasks"]} == {"triage": 1, "policy": 1, "chat": 3}


def test_the_file_is_valid_until_the_examples_change(config_folder: ConfigFolder, fit: Fit, model_folder: Path) -> None:
    models = EmbeddingModels.load(model_folder)
    _, found, _ = fit(config_folder.write())
    assert load(Path(found["file"]), origin(load_config(config_folder.folder), models)).tasks == (
        "chat",
        "policy",
        "triage",
    )

    config_folder.examples["chat"].append(("Sing me a song", None))
    with pytest.raises(StaleClassifier, match="pointsman classifier fit"):
        load(Path(found["file"]), origin(load_config(config_folder.write()), models))


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ({"chat": [("Hello", None)]}, "task 'chat' has 1 example(s)"),
        ({"chat": [("hello there", None), ("Are bicycles allowed on the train?", None)]}, "'policy' and 'chat' share"),
    ],
)
def test_examples_that_cannot_be_learned_from_are_refused_in_one_line(
    examples: dict[str, Any], message: str, config_folder: ConfigFolder, fit: Fit
) -> None:
    config_folder.examples |= examples

    code, found, errors = fit(config_folder.write())

    assert (code, found, errors.count("\n")) == (1, {}, 1)
    assert errors.startswith("error: ")
    assert message in errors
    assert not (config_folder.folder / "classifier.artifact").exists()


def test_a_missing_file_of_examples_is_named(config_folder: ConfigFolder, fit: Fit) -> None:
    folder = config_folder.write()
    (folder / "tasks" / "chat.jsonl").unlink()

    code, _, errors = fit(folder)

    assert code == 1
    assert str(folder / "tasks" / "chat.jsonl") in errors


def test_without_json_the_output_is_text(
    config_folder: ConfigFolder, fit: Fit, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", str(config_folder.write())]) == 0

    page = capfd.readouterr().out
    assert "3 tasks, 18 examples, 0 out-of-scope texts" in page
    assert [line.split()[:2] for line in page.splitlines() if line.startswith("  triage")] == [["triage", "6"]]
