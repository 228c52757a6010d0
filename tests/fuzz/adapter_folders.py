"""Mutated folders of adapters: the lora-server's checks accept an adapter, or reject it with a code."""

import json
import struct
from pathlib import Path
from random import Random
from typing import Any

from pointsman_lora_server.checks.base_layers import read_base
from pointsman_lora_server.store.artifact_store import import_adapter
from pointsman_servicekit.errors import InvalidArgument

from tests.fuzz.mutations import change_bytes, change_json
from tests.lora_server.tiny_adapters import BASE_NAME, RANK, good_tensors, write_adapter, write_base

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BESIDE = (
    "samples.jsonl",
    "training.json",
    "tokenizer.json",
    "README.md",
    "adapter_model.bin",
    "new_embeddings.safetensors",
    "x/y",
)
LENGTH_BYTES = 8


def reader(root: Path) -> Any:
    base = read_base(write_base(root / "base"), BASE_NAME)

    def carry_out(random: Random, folder: Path) -> None:
        adapter = write_adapter(folder / "adapter", good_tensors())
        _change(random, adapter)
        (folder / "scratch").mkdir()
        try:
            import_adapter(adapter, folder / "scratch", base, max_rank=RANK)
        except InvalidArgument as error:
            if not error.code:
                raise AssertionError("a refusal without a code") from error

    return carry_out


def _change(random: Random, adapter: Path) -> None:
    match random.randrange(7):
        case 0 | 1:
            config = json.loads((adapter / CONFIG).read_text())
            extra = {
                "rank_pattern": {"(a+)+$": 4},
                "alpha_pattern": {"q_proj": 4},
                "modules_to_save": ["lm_head"],
                "layers_pattern": "x",
            }
            (adapter / CONFIG).write_text(json.dumps(change_json(random, {**config, **extra})))
        case 2:
            file = adapter / random.choice((CONFIG, WEIGHTS))
            file.write_bytes(change_bytes(random, file.read_bytes()))
        case 3 | 4:
            _change_header(random, adapter / WEIGHTS)
        case 5:
            file = adapter / random.choice(BESIDE)
            file.parent.mkdir(exist_ok=True)
            rows = change_json(
                random, [{"messages": [{"role": "user", "content": "a"}], "completion": "b"}, {"text": "a"}]
            )
            file.write_bytes(change_bytes(random, json.dumps(rows).encode()))
        case _:
            _change_files(random, adapter)


def _change_header(random: Random, file: Path) -> None:
    """Changes the header of the safetensors file, which describes the tensors, and perhaps the header's stated
    length.
    """
    data = file.read_bytes()
    length = struct.unpack("<Q", data[:LENGTH_BYTES])[0]
    header = json.loads(data[LENGTH_BYTES : LENGTH_BYTES + length])
    written = json.dumps(change_json(random, header)).encode("utf-8", "replace")
    if random.random() < 0.05:
        written = b'{"a": ' * 5000 + b"1" + b"}" * 5000
    stated = random.choice((len(written),) * 8 + (0, 2**63, 2**64 - 1, len(data)))
    file.write_bytes(struct.pack("<Q", stated) + written + data[LENGTH_BYTES + length :])


def _change_files(random: Random, adapter: Path) -> None:
    file = adapter / random.choice((CONFIG, WEIGHTS))
    match random.randrange(6):
        case 0:
            file.unlink()
        case 1:
            file.rename(adapter / "other")
            file.symlink_to(random.choice(("other", "/etc/passwd", "/dev/zero", file.name, "missing")))
        case 2:
            file.unlink()
            file.mkdir()
        case 3:
            with file.open("r+b") as opened:
                opened.truncate(random.choice((0, 1, 7, 8, 9, 1 << 34)))
        case 4:
            (adapter / "more").hardlink_to(file)
        case _:
            for number in range(200):
                (adapter / f"file-{number}").write_bytes(b"x")
