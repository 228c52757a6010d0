"""An adapter's folder is either complete or absent."""

import json
from pathlib import Path

import pytest
from pointsman_lora_server.training.adapter_folder import (
    AdapterFiles,
    check_merged_target,
    check_target,
    write_adapter,
    write_merged_model,
)
from pointsman_lora_server.training.data import Conversation, Message
from pointsman_lora_server.training.exits import TrainingError

FILES = ["adapter_config.json", "adapter_model.safetensors", "training.json"]


def test_a_new_folder_has_three_files_and_no_temporary_ones(tmp_path: Path) -> None:
    write_adapter(tmp_path / "deep" / "triage", AdapterFiles(b"weights", {"r": 4}, {"seed": 7}))
    assert sorted(path.name for path in (tmp_path / "deep" / "triage").iterdir()) == FILES
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["triage"]
    assert json.loads((tmp_path / "deep" / "triage" / "adapter_config.json").read_text()) == {"r": 4}


def test_an_older_adapter_is_replaced_as_a_whole(tmp_path: Path) -> None:
    write_adapter(tmp_path / "triage", AdapterFiles(b"old", {"r": 4}, {}))
    check_target(tmp_path / "triage")
    write_adapter(tmp_path / "triage", AdapterFiles(b"new", {"r": 8}, {}))
    assert (tmp_path / "triage" / "adapter_model.safetensors").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["triage"]


def test_a_failed_write_keeps_the_older_adapter(tmp_path: Path) -> None:
    write_adapter(tmp_path / "triage", AdapterFiles(b"old", {"r": 4}, {}))
    with pytest.raises(TypeError):
        write_adapter(tmp_path / "triage", AdapterFiles(b"new", {"r": object()}, {}))
    assert (tmp_path / "triage" / "adapter_model.safetensors").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["triage"]


def test_an_output_path_with_other_content_is_rejected_before_training(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(TrainingError, match=r"notes.txt is a file"):
        check_target(tmp_path / "notes.txt")
    with pytest.raises(TrainingError, match=r"contains 'notes.txt', which does not belong to an adapter"):
        check_target(tmp_path)


def test_held_out_rows_are_stored_with_the_adapter_as_messages_and_answer(tmp_path: Path) -> None:
    row = Conversation((Message("system", "Sort."), Message("user", "Zürich?")), "fare", "heldout.jsonl:1")
    write_adapter(tmp_path / "triage", AdapterFiles(b"weights", {}, {}, [row]))
    check_target(tmp_path / "triage")
    (line,) = (tmp_path / "triage" / "samples.jsonl").read_text("utf-8").splitlines()
    messages = [{"role": "system", "content": "Sort."}, {"role": "user", "content": "Zürich?"}]
    assert json.loads(line) == {"messages": messages, "answer": "fare"}


def test_merged_model_and_adapter_are_written_atomically(tmp_path: Path) -> None:
    def merge(folder: Path) -> None:
        (folder / "config.json").write_text("{}")

    def fail(folder: Path) -> None:
        (folder / "config.json").write_text("half")
        raise OSError("no space left")

    write_adapter(tmp_path / "triage", AdapterFiles(b"old", {}, {}, merge=merge))
    with pytest.raises(TrainingError, match="triage cannot be written: no space left"):
        write_adapter(tmp_path / "triage", AdapterFiles(b"new", {}, {}, merge=fail))
    assert (tmp_path / "triage" / "adapter_model.safetensors").read_bytes() == b"old"
    assert (tmp_path / "triage" / "merged" / "config.json").read_text() == "{}"

    write_merged_model(tmp_path / "model", merge)
    check_merged_target(tmp_path / "model")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(TrainingError, match="contains something that is not a model"):
        check_merged_target(tmp_path / "mine")


def test_a_merged_model_that_cannot_be_put_in_place_leaves_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_text("old")

    with pytest.raises(TrainingError, match="model cannot be written: No such file or directory"):
        write_merged_model(folder, lambda new: new.rmdir())

    assert {file.name: file.read_text() for file in folder.iterdir()} == {"weights": "old"}
    assert list(tmp_path.iterdir()) == [folder]
