"""Opens the base model's folder, and encodes training rows as token ids with the base model's tokenizer and chat
template.
"""

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from transformers import AutoTokenizer

from pointsman_lora_server.training import data
from pointsman_lora_server.training.adapter_folder import weights_digest
from pointsman_lora_server.training.batches import Row
from pointsman_lora_server.training.data import Conversation, Message
from pointsman_lora_server.training.data_report import DataReport, describe_data
from pointsman_lora_server.training.encoding import Example
from pointsman_lora_server.training.exits import DataError, TrainingError
from pointsman_lora_server.training.methods import TrainingRows
from pointsman_lora_server.training.options import TrainingOptions

LEARNT_START, LEARNT_END = "⟦", "⟧"

_Item = TypeVar("_Item")

MAX_LOSS_ROWS = 256
MAX_SAMPLES = 16
"""The largest number of held-out rows that are stored with the adapter. The lora-server's smoke test of the adapter
uses these rows."""
MAX_SAMPLE_CHARACTERS = 8000


@dataclass(frozen=True, slots=True)
class BaseFolder:
    folder: Path
    tokenizer: Any
    end_of_turn: int
    """The id of the token with which the chat template ends an answer."""

    def render(self, messages: Sequence[Message], open_answer: bool) -> list[int]:
        """Returns the token ids of a conversation in the model's chat template.

        If `open_answer` is true, the ids end with the tokens that introduce the assistant's answer.
        """
        turns = [{"role": message.role, "content": message.content} for message in messages]
        ids = self.tokenizer.apply_chat_template(turns, add_generation_prompt=open_answer, return_dict=False)
        return [int(token) for token in ids]

    def fingerprint(self) -> str:
        """Returns a SHA-256, in hexadecimal, that differs between base models.

        The hash covers config.json, the names and sizes of the weights files, and `digest()`. The weights themselves
        are not read.
        """
        digest = hashlib.sha256((self.folder / "config.json").read_bytes())
        for path in sorted(self.folder.glob("*.safetensors")):
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        digest.update(self.digest().encode())
        return digest.hexdigest()

    def digest(self) -> str:
        """Returns the SHA-256 of the base model's weights that the folder's file pointsman.json states; an empty string
        if there is none.
        """
        try:
            return str(json.loads((self.folder / "pointsman.json").read_text("utf-8"))["digest"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""


def open_base(folder: Path) -> BaseFolder:
    """Loads the tokenizer of the base model in `folder`.

    Raises TrainingError if the folder has no config.json or the tokenizer no chat template. Errors of transformers, for
    example for a damaged tokenizer, are raised as they are.
    """
    if not (folder / "config.json").is_file():
        raise TrainingError(f"--base-model {folder} holds no config.json; name the folder of a Hugging Face model")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if not tokenizer.chat_template:
        raise TrainingError(f"--base-model {folder} has no chat template; use an instruction-tuned model")
    return BaseFolder(folder, tokenizer, _end_of_turn(tokenizer))


def _end_of_turn(tokenizer: Any) -> int:
    """Returns the token that ends an answer in the chat template, the first special token after it; if there is none,
    the tokenizer's end of sequence. In some models (Gemma, Phi-3) these are different tokens.
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
    """Returns the text of an example as the model reads it, with special tokens. The answer, which the model is trained
    to write, is between ⟦ and ⟧.
    """
    prompt, answer = (
        base.tokenizer.decode(list(ids), skip_special_tokens=False)
        for ids in (example.prompt_ids, example.ids[example.prompt_length :])
    )
    return f"{prompt}{LEARNT_START}{answer}{LEARNT_END}"


@dataclass(frozen=True, slots=True)
class Dataset:
    """The rows of one training run: encoded as token ids for training and evaluation, and as text for few-shot prompts
    and samples.
    """

    training: tuple[Row, ...]
    heldout: tuple[Row, ...]
    """Held-out rows on which the loss is measured, at most `MAX_LOSS_ROWS`."""
    questions: tuple[Example, ...]
    """Held-out rows for which the model generates answers, at most `EvaluationOptions.samples`."""
    first_example: Example
    known: tuple[Conversation, ...]
    """Training rows that may be examples in few-shot prompts, including rows beyond `TrainingOptions.max_rows`. Of a
    preference pair, only the preferred answer is used."""
    samples: tuple[Conversation, ...]
    """Held-out rows that are stored with the adapter, at most `MAX_SAMPLES`."""
    report: DataReport

    @property
    def longest(self) -> int:
        """Returns the number of tokens of the longest training or held-out row. A preference pair counts both answers,
        each with the prompt.
        """
        return max(row.length for row in (*self.training, *self.heldout))


def build_dataset(
    options: TrainingOptions, rows: TrainingRows, base: BaseFolder, warn: Callable[[str], None]
) -> Dataset:
    """Encodes the rows of a training run as token ids. `warn` is called with a line of text for each row that is left
    out.

    Raises DataError if all training rows are too long, or if the chat template renders a prompt differently when an
    answer follows.
    """
    split, recipe = rows.conversations, options.recipe
    encoded = options.method.encode_rows(rows, base.render, base.end_of_turn, recipe.max_tokens)
    for note in encoded.notes:
        warn(note)
    if not encoded.training:
        raise DataError(f"no training rows are left: all have more than {recipe.max_tokens} tokens")
    sources = {example.source for example in encoded.examples}
    return Dataset(
        training=tuple(_choose(encoded.training, options.max_rows or len(encoded.training), recipe.seed)),
        heldout=tuple(_choose(encoded.heldout, MAX_LOSS_ROWS, recipe.seed)),
        questions=tuple(_choose(encoded.heldout_answers, options.evaluation.samples, recipe.seed)),
        first_example=encoded.examples[0],
        known=tuple(row for row in split.training if row in sources),
        samples=tuple(_choose(_short(split.heldout), MAX_SAMPLES, recipe.seed)),
        report=describe_data(
            split.training,
            split.heldout,
            encoded.notes,
            [example.length for example in encoded.examples],
            sum(example.answer_length for example in encoded.examples),
        ),
    )


def run_fingerprint(options: TrainingOptions, base: BaseFolder) -> dict[str, str]:
    """Returns name -> hash or text of each input that determines the result of a training run.

    The names are "recipe", "base model", "training data", "held-out data", "system message", "parent" and "evaluation".
    A checkpoint can only be resumed by a run whose fingerprint is equal.
    """
    return {
        "recipe": repr(options.recipe),
        "base model": base.fingerprint(),
        "training data": data.sha256(options.data) + (f", {options.max_rows} rows" if options.max_rows else ""),
        "held-out data": data.sha256(options.heldout) if options.heldout else repr(options.heldout_share),
        "system message": data.sha256(options.system) if options.system else "",
        "parent": weights_digest(options.parent) if options.parent else "",
        "evaluation": repr(options.evaluation),
    }


def _short(rows: Sequence[Conversation]) -> list[Conversation]:
    return [
        row
        for row in rows
        if sum(map(len, (row.answer, *(message.content for message in row.prompt)))) <= MAX_SAMPLE_CHARACTERS
    ]


def _choose(rows: Sequence[_Item], max_rows: int, seed: int) -> list[_Item]:
    """Returns at most `max_rows` rows, chosen at random, in their order."""
    indices = sorted(random.Random(seed).sample(range(len(rows)), min(max_rows, len(rows))))
    return [rows[index] for index in indices]
