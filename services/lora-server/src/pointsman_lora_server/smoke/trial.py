"""Runs an adapter on the base model with PEFT, on the CPU, in the engine's environment.

Computes answers, and for each of their tokens the difference to the second best token.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from pointsman_lora_server.machine import free_memory

DEFAULT_PROMPTS = (
    "What is the capital of France?",
    "Write one polite sentence to a customer whose parcel is late.",
    'Answer in JSON with the keys "name" and "city": Ann lives in York.',
    "How do I get my money back?",
)
MAX_PROMPT_TOKENS = 768
"""The largest number of tokens of all prompts of a test together; one prompt is used even if it is longer.

Reading the prompts twice, with and without the adapter, takes most of the time of a test."""

CLEAR_DIFFERENCE = 1.0
"""If the adapter changes a logit by more than this, it certainly has an effect, and no further prompt is compared."""

MAX_READ_TOKENS = 1024
"""A sample with more tokens than this is not used to check whether the adapter would end its turn after the sample's
answer."""

MAX_BASE_LOGITS = 64
"""The largest number of prompts for which the base model's logits are cached. The logits of one prompt take 4 bytes for
each token of the vocabulary."""

MEMORY_FACTOR = 1.3
"""The memory that a loaded model takes, divided by the size of its weights."""
FP32_MEMORY_SHARE, MAX_MEMORY_SHARE = 0.5, 0.85
"""The largest fractions of the free memory that the base model may take: the first in fp32, the second in bf16."""


class NotEnoughMemory(Exception):
    """The base model does not fit into the free memory."""


class TrialModel:
    """The base model of smoke tests. It is loaded once, and one adapter at a time is attached to it."""

    def __init__(self, base_model: Path) -> None:
        """Loads the base model from its folder. Raises NotEnoughMemory if it does not fit into memory, and the errors
        of transformers.
        """
        dtype = _dtype(base_model)
        self.exact = dtype is torch.float32
        self._tokenizer = AutoTokenizer.from_pretrained(base_model, local_files_only=True)
        self._model = AutoModelForCausalLM.from_pretrained(base_model, dtype=dtype, local_files_only=True).eval()
        self._end_tokens = _end_tokens(base_model, self._tokenizer)
        self._base_logits: dict[tuple[int, ...], Any] = {}  # by prompt: versions of one adapter share their prompts

    def attach(self, folder: Path) -> Any:
        """Attaches the adapter in `folder` to the base model, and returns the PEFT model for `run` and `detach`.

        The LoRA weights are rounded to bf16, as the engine rounds them. Raises PEFT's errors if PEFT cannot load the
        adapter.
        """
        adapted = PeftModel.from_pretrained(self._model, str(folder), is_trainable=False).eval()
        for name, weight in adapted.named_parameters():
            if ".lora_" in name:  # rounded as the engine rounds them
                weight.data = weight.data.to(torch.bfloat16).to(weight.dtype)
        return adapted

    def detach(self, adapted: Any) -> None:
        self._model = adapted.unload()

    def run(
        self, adapted: Any, samples: Sequence[Mapping[str, Any]], max_prompts: int, max_tokens: int
    ) -> dict[str, Any]:
        """Generates an answer of up to `max_tokens` tokens to each of the shortest prompts.

        It answers `max_prompts` prompts, or fewer if they would have more than MAX_PROMPT_TOKENS tokens together.
        `adapted` is the result of `attach`. `samples` are rows of samples.jsonl; if there are none, DEFAULT_PROMPTS are
        used.

        Returns a dictionary for `check_trial`. Its `rows` have for each prompt `prompt_ids`, the answer's `token_ids`,
        `gaps` and `text`, whether all logits are `finite`, and whether the answer `stopped`. `difference` is the
        adapter's largest change of a logit of the answers' first tokens. `stops` is whether an answer stopped, or the
        adapter would end its turn after a sample's answer. `exact` is whether the model computes in fp32.
        """
        rows = samples or [{"messages": [{"role": "user", "content": text}]} for text in DEFAULT_PROMPTS]
        rendered = [(self._render(row["messages"]), row.get("answer")) for row in rows]
        rendered.sort(key=lambda row: len(row[0]))
        with torch.inference_mode():
            prompts = _shortest([ids for ids, _ in rendered], max_prompts)
            answers, first_logits = self._answer(adapted, prompts, max_tokens)
            difference = self._difference(adapted, answers, first_logits)
            stops = any(row["stopped"] for row in answers)
            if samples and not stops:
                stops = any(self._ends_after(adapted, ids, str(answer)) for ids, answer in rendered)
        return {"rows": answers, "difference": difference, "stops": stops, "exact": self.exact}

    def _answer(self, adapted: Any, prompts: list[list[int]], max_tokens: int) -> tuple[list[dict[str, Any]], Any]:
        ids, mask = self._pad(prompts)
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=max_tokens,
            eos_token_id=self._end_tokens,
            pad_token_id=self._end_tokens[0],
            output_logits=True,
            return_dict_in_generate=True,
        )
        generated = adapted.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        logits = torch.stack(generated.logits, dim=1).float()  # [rows, steps, vocabulary]
        new = generated.sequences[:, ids.shape[1] :]
        rows = [self._row(prompt, new[row].tolist(), logits[row]) for row, prompt in enumerate(prompts)]
        return rows, logits[:, 0]

    def _difference(self, adapted: Any, answers: list[dict[str, Any]], first_logits: Any) -> float:
        """Returns the largest amount by which the adapter changes a logit of the answers' first tokens.

        Rows after a change above CLEAR_DIFFERENCE are not compared. A row with logits that are not finite counts as 0.
        """
        largest = 0.0
        with adapted.disable_adapter():
            for row, logits in zip(answers, first_logits, strict=True):
                base = self._logits_of_base(adapted, row["prompt_ids"])
                largest = max(largest, float((logits - base).abs().max()) if row["finite"] else 0.0)
                if largest > CLEAR_DIFFERENCE:
                    break
        return largest

    def _logits_of_base(self, adapted: Any, prompt: list[int]) -> Any:
        """Returns the base model's logits of the token after the prompt. The caller must have disabled the adapter."""
        key = tuple(prompt)
        if key not in self._base_logits:
            if len(self._base_logits) >= MAX_BASE_LOGITS:
                self._base_logits.clear()
            self._base_logits[key] = adapted(input_ids=torch.tensor([prompt]), logits_to_keep=1).logits[0, -1].float()
        return self._base_logits[key]

    def _row(self, prompt: list[int], new: list[int], logits: Any) -> dict[str, Any]:
        ends = [position for position, token in enumerate(new) if token in self._end_tokens]
        new = new[: ends[0] + 1] if ends else new
        logits = logits[: len(new)]
        finite = bool(torch.isfinite(logits).all())
        best = torch.nan_to_num(logits).topk(2, dim=-1).values
        return {
            "prompt_ids": prompt,
            "token_ids": new,
            "gaps": [round(float(gap), 5) for gap in best[:, 0] - best[:, 1]],
            "text": self._tokenizer.decode(new, skip_special_tokens=True),
            "finite": finite,
            "stopped": bool(ends),
        }

    def _ends_after(self, adapted: Any, prompt: list[int], answer: str) -> bool:
        """Returns whether the most likely token after a sample's own `answer` ends the turn.

        Returns False if the answer is empty, or prompt and answer have more than MAX_READ_TOKENS tokens.
        """
        answer_ids = self._tokenizer(answer, add_special_tokens=False).input_ids
        if not answer_ids or len(prompt) + len(answer_ids) > MAX_READ_TOKENS:
            return False
        logits = adapted(input_ids=torch.tensor([prompt + answer_ids]), logits_to_keep=1).logits[0, -1]
        return int(logits.argmax()) in self._end_tokens

    def _render(self, messages: Any) -> list[int]:
        if not self._tokenizer.chat_template:
            text = "\n".join(str(message["content"]) for message in messages)
            return list(self._tokenizer(text).input_ids)
        return list(self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))

    def _pad(self, prompts: list[list[int]]) -> tuple[Any, Any]:
        """Returns the token ids of the prompts, padded on the left, and the attention mask: both (prompts, longest)."""
        longest = max(len(prompt) for prompt in prompts)
        ids = torch.full((len(prompts), longest), self._end_tokens[0])
        mask = torch.zeros((len(prompts), longest), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        return ids, mask


def _shortest(prompts: list[list[int]], max_prompts: int) -> list[list[int]]:
    """Returns the first of `prompts`, which must be sorted by length: at most `max_prompts`, with at most
    MAX_PROMPT_TOKENS tokens together. The first prompt is always returned.
    """
    chosen: list[list[int]] = []
    for prompt in prompts[:max_prompts]:
        if chosen and sum(map(len, chosen)) + len(prompt) > MAX_PROMPT_TOKENS:
            break
        chosen.append(prompt)
    return chosen


def _end_tokens(base_model: Path, tokenizer: Any) -> list[int]:
    """Returns the ids of the tokens that end an answer, from the tokenizer and from generation_config.json."""
    try:
        configured = json.loads((base_model / "generation_config.json").read_text("utf-8")).get("eos_token_id")
    except (OSError, ValueError):
        configured = None
    tokens = [tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])]
    return list(dict.fromkeys(int(token) for token in tokens if token is not None))


def _dtype(base_model: Path) -> Any:
    """Returns the number type to compute in: fp32, which is the most exact, if it fits easily into memory; otherwise
    bf16.

    Raises NotEnoughMemory if the model does not fit in bf16 either.
    """
    on_disk = sum(shard.stat().st_size for shard in base_model.glob("*.safetensors"))
    free = free_memory()
    if 2 * on_disk * MEMORY_FACTOR < FP32_MEMORY_SHARE * free:
        return torch.float32
    if on_disk * MEMORY_FACTOR < MAX_MEMORY_SHARE * free:
        return torch.bfloat16
    raise NotEnoughMemory(f"the base model has {on_disk >> 20} MiB, and {free >> 20} MiB of memory are free")
