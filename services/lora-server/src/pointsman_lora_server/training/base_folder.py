"""The base model's folder: its tokenizer and chat template, and what distinguishes it from other models."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from pointsman_lora_server.training.batches import Example
from pointsman_lora_server.training.data import Message
from pointsman_lora_server.training.exits import TrainingError

LEARNT_START, LEARNT_END = "⟦", "⟧"


@dataclass(frozen=True, slots=True)
class BaseFolder:
    folder: Path
    tokenizer: Any
    end_of_turn: int
    """The token with which the chat template ends an answer."""

    def render(self, messages: Sequence[Message], open_answer: bool) -> list[int]:
        """Returns a conversation's tokens by the model's chat template; with `open_answer` an answer follows them."""
        turns = [{"role": message.role, "content": message.content} for message in messages]
        ids = self.tokenizer.apply_chat_template(turns, add_generation_prompt=open_answer, return_dict=False)
        return [int(token) for token in ids]

    def fingerprint(self) -> str:
        """Returns a hash of the model's configuration and its weights' names and sizes, to tell models apart."""
        digest = hashlib.sha256((self.folder / "config.json").read_bytes())
        for path in sorted(self.folder.glob("*.safetensors")):
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        digest.update(self.digest().encode())
        return digest.hexdigest()

    def digest(self) -> str:
        """Returns the digest of the weights that pointsman.json states, empty if there is none."""
        try:
            return str(json.loads((self.folder / "pointsman.json").read_text("utf-8"))["digest"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""


def open_base(folder: Path) -> BaseFolder:
    """Opens a base model's folder; raises TrainingError if it is no model or has no chat template."""
    if not (folder / "config.json").is_file():
        raise TrainingError(f"--base-model {folder} holds no config.json; name the folder of a Hugging Face model")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if not tokenizer.chat_template:
        raise TrainingError(f"--base-model {folder} has no chat template; use an instruction-tuned model")
    return BaseFolder(folder, tokenizer, _end_of_turn(tokenizer))


def _end_of_turn(tokenizer: Any) -> int:
    """Returns the first special token after an answer in the chat template, else the end of sequence. The two differ in
    some models (Gemma, Phi-3).
    """
    answer = "ANSWER"
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]
    ids = tokenizer.apply_chat_template(turns, return_dict=False)
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    has_answered = False
    for index, token in enumerate(ids):
        has_answered = has_answered or answer in tokenizer.decode(ids[:index], skip_special_tokens=False)
        if has_answered and token in special:
            return int(token)
    return int(tokenizer.eos_token_id)


def show_example(base: BaseFolder, example: Example) -> str:
    """Returns an example's text as the model reads it, with special tokens; the part between ⟦ and ⟧ is learnt."""
    prompt, answer = (
        base.tokenizer.decode(list(ids), skip_special_tokens=False)
        for ids in (example.prompt_ids, example.ids[example.prompt_length :])
    )
    return f"{prompt}{LEARNT_START}{answer}{LEARNT_END}"
