from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from pointsman_cli.errors import UsageError
from pointsman_cli.example import ExampleAdapter, load_example


def test_an_example_is_read_with_absolute_paths(example_folder: Path) -> None:
    example = load_example(example_folder)

    assert example.base_model == "smollm2-135m"
    assert example.config == example_folder / "config"
    assert example.collections == {"handbook": example_folder / "handbook"}
    assert example.adapters == (ExampleAdapter("triage", example_folder / "adapters" / "triage", "prod"),)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("config: config", "config: config\nadapter: {}", "unknown key 'adapter'; known: base_model, config, coll"),
        ("alias: prod", "alias: prod, pin: yes", "unknown key 'pin' in adapters.triage; known: folder, alias"),
        (
            "smollm2-135m",
            "gpt-5",
            "base model 'gpt-5' is neither smollm2-135m, nor a folder, nor a name at the Hugging",
        ),
        ("smollm2-135m", "5", "base_model: Input should be a valid string"),
        ("config: config\n", "", "'config' is missing"),
        (", alias: prod", "", "'adapters.triage.alias' is missing"),
        ("alias: prod", "alias: Pro D", "adapters.triage.alias: 'Pro D' should be 1 to 64 of a-z"),
        ("{handbook: handbook}", "{Hand Book: handbook}", "'Hand Book' should be 1 to 64 of a-z"),
        ("handbook: handbook", "handbook: handbok", "collections.handbook: "),
        ("adapters/triage", "handbook", "adapters.triage.folder: "),
        ("config: config", "config: [", "is not YAML"),
        ("config: config", "config: 2026-13-45", "'2026-13-45': month must be in 1..12; in quotes it is a text"),
        ("config: config", f"config: {'[' * 5000}", "it is nested too deep"),
        ("config: config", "config: config\nconfig: other", "'config' stands twice"),
        ("alias: prod}", "alias: prod}\n  triage: {folder: handbook, alias: beta}", "'triage' stands twice"),
    ],
)
def test_an_error_is_named_with_the_valid_values(example_folder: Path, before: str, after: str, message: str) -> None:
    file = example_folder / "pointsman.yaml"
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after, 1))

    with pytest.raises(UsageError) as refused:
        load_example(example_folder)

    assert message in str(refused.value)
    assert str(file) in str(refused.value)


def test_an_empty_file_is_rejected_with_the_required_keys(example_folder: Path) -> None:
    (example_folder / "pointsman.yaml").write_text("# nothing\n")

    with pytest.raises(UsageError, match="known: base_model, config, collections, adapters"):
        load_example(example_folder)


def test_a_folder_without_the_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no pointsman\.yaml"):
        load_example(tmp_path)


@pytest.mark.parametrize("content", [b"models: {caf\xe9: {}}", b"models: ["])
def test_what_an_unreadable_configuration_needs_is_left_to_the_gateway_to_reject(
    example_folder: Path, content: bytes
) -> None:
    (example_folder / "pointsman.yaml").write_text("config: config\n")
    (example_folder / "config" / "models.yaml").write_bytes(content)

    example = load_example(example_folder)

    assert (example.needs_retriever, example.needs_embedding_model) == (False, True)


def test_what_a_configuration_that_may_not_be_read_needs_is_left_to_the_gateway_to_reject(
    locked: Path, anybody: Callable[[], AbstractContextManager[None]]
) -> None:
    (locked / "pointsman.yaml").write_text("config: sub\n")
    (locked / "sub" / "models.yaml").write_text("paths: {a: {strategies: [retrieval: {}]}}\n")
    (locked / "sub" / "models.yaml").chmod(0)
    with anybody():
        example = load_example(locked)
        assert (example.needs_retriever, example.needs_embedding_model) == (False, True)


def test_up_refuses_a_bad_example_in_one_line_before_anything_starts(
    cli: Callable[..., Any], example_folder: Path, tmp_path: Path
) -> None:
    (example_folder / "pointsman.yaml").write_text("base_model: smollm2-135m\nconfig: config\nport: 1\n")

    outcome = cli("up", example_folder, "--data-dir", tmp_path / "home")

    assert outcome.code == 2
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert "unknown key 'port'" in outcome.err
    assert not (tmp_path / "home").exists()
