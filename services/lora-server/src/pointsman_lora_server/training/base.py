"""The base model's folder: its tokenizer and chat template, and what tells it from others."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from pointsman_lora_server.training.data import Message
from pointsman_lora_server.training.errors import TrainingError


@dataclass(frozen=True, slots=True)
class BaseFolder:
    folder: Path
    tokenizer: Any

    def render(self, messages: Sequence[Message], answer_next: bool) -> list[int]:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        ids = self.tokenizer.apply_chat_template(turns, add_generation_prompt=answer_next, return_dict=False)
        return [int(token) for token in ids]

    @property
    def end_of_turn(self) -> int:
        return int(self.tokenizer.eos_token_id)

    def fingerprint(self) -> str:
        """Of its configuration and of its weights' names and sizes: enough to see that it is another model."""
        found = hashlib.sha256((self.folder / "config.json").read_bytes())
        for path in sorted(self.folder.glob("*.safetensors")):
            found.update(f"{path.name} {path.stat().st_size}\n".encode())
        found.update(self.digest().encode())
        return found.hexdigest()

    def digest(self) -> str:
        """What the maker of the folder says of its weights; empty where it says nothing."""
        try:
            return str(json.loads((self.folder / "pointsman.json").read_text("utf-8"))["digest"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""


def open_base(folder: Path) -> BaseFolder:
    if not (folder / "config.json").is_file():
        raise TrainingError(f"--base-model {folder} holds no config.json; name the folder of a Hugging Face model")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if not tokenizer.chat_template:
        raise TrainingError(f"--base-model {folder} has no chat template; an instruction-tuned model brings one")
    return BaseFolder(folder, tokenizer)
