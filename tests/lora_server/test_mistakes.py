"""Mistakes with adapters and training data: each error names the problem and what would be right."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pointsman_lora_server.checks.base_layers import BaseModelSpec
from pointsman_lora_server.registry import AdapterRegistry
from pointsman_lora_server.store import ArtifactStore
from pointsman_lora_server.training.data import read_conversations
from pointsman_lora_server.training.exits import DataError
from pointsman_servicekit.bounded_redis import BoundedRedis
from pointsman_servicekit.errors import NotFound, PointsmanError

from tests.lora_server.server_process import MakeAdapter

FOLDER = "name the folder that `pointsman train` or PEFT has saved"
Spoil = Callable[[Path], None]


def edit(**changes: object) -> Spoil:
    """Returns what changes the adapter's configuration."""

    def change(folder: Path) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def truncate(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:100])


def remove(name: str) -> Spoil:
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("name", "spoil", "problem", "remedy"),
    [
        ("triage", edit(base_model_name_or_path="other"), "'other'", "tiny-base"),
        ("triage", edit(r=64, lora_alpha=64), "64", "8"),
        ("triage", edit(task_type="SEQ_CLS"), "SEQ_CLS", "CAUSAL_LM"),
        ("triage", edit(target_modules=["q_proj", "query"]), "query", "q_proj"),
        ("triage", truncate, "adapter_model.safetensors is damaged", "save it again"),
        ("triage", remove("adapter_model.safetensors"), "holds no adapter_model.safetensors", FOLDER),
        ("triage", remove("adapter_config.json"), "holds no adapter_config.json", FOLDER),
        ("Bank", lambda folder: None, "'Bank'", "a-z"),
    ],
)
def test_a_mistake_with_an_adapter(
    tmp_path: Path, base: BaseModelSpec, make_adapter: MakeAdapter, name: str, spoil: Spoil, problem: str, remedy: str
) -> None:
    folder = make_adapter()
    spoil(folder)
    with pytest.raises(PointsmanError) as caught:
        ArtifactStore(tmp_path / "store", base, max_rank=8).add(name, folder, {})
    assert problem in caught.value.message
    assert remedy in caught.value.message.partition(problem)[2]


@pytest.mark.parametrize(
    ("content", "problem", "remedy"),
    [
        (b"", "has no rows", 'write one JSON object a line, such as {"text"'),
        (b"{text: a}\n", ":1: not JSON", "write one whole JSON object a line"),
        (b'{"text": "a"}\n', ":1", "output"),
        (b'{"text": "a", "label": "b"}\n', 'or "text" and "output"', 'this one has "text", "label"'),
        (b'{"text": "a", "output": "b", "label": "c"}\n', "unknown key 'label'", "known here: text, output"),
        ('{"text": "é", "output": "b"}\n'.encode("latin-1"), "cannot be read", "name a file of UTF-8 text"),
        (None, "cannot be read", "name a file of UTF-8 text"),
    ],
)
def test_a_mistake_in_training_data(tmp_path: Path, content: bytes | None, problem: str, remedy: str) -> None:
    file = tmp_path / "rows.jsonl"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_conversations(file)
    assert problem in str(caught.value)
    assert remedy in str(caught.value).partition(problem)[2]


async def test_a_version_or_alias_that_is_not_registered(bounded_redis: BoundedRedis) -> None:
    registry = AdapterRegistry(bounded_redis, "tiny-base")
    with pytest.raises(NotFound, match="no version 'triage@000000000000' is registered; see `pointsman adapters list`"):
        await registry.move_alias("triage@prod", "triage@000000000000", author="ann")
    with pytest.raises(NotFound, match="there is no alias 'triage@prod'; see `pointsman adapters list`"):
        await registry.roll_back("triage@prod", author="ann")
