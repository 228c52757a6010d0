"""Runs one adapter on the base model with PEFT, on the CPU, in the engine's environment: its answers and their
margins.
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
"""Of all prompts together, but one prompt is always used. Reading them twice, with and without the adapter, takes most
of the time."""

CLEAR_DIFFERENCE = 1.0
"""In logits. One prompt that shows it proves that the adapter has an effect."""

MAX_READ_TOKENS = 1024
"""Longer samples are not read to check whether the adapter would end its turn after their answer."""

MEMORY_FACTOR = 1.3
"""Memory that a model takes, relative to the size of its weights."""
FP32_MEMORY_SHARE, MAX_MEMORY_SHARE = 0.5, 0.85
"""Fractions of the free memory that the model may take, in fp32 and in bf16."""


class NotEnoughMemory(Exception):
    """The base model does not fit into the free memory."""


class TrialModel:
    """The base model in PEFT, loaded once; each trial of an adapter leaves it unchanged."""

    def __init__(self, base_model: Path) -> None:
        dtype = _dtype(base_model)
        self.exact = dtype is torch.float32
        self._tokenizer = AutoTokenizer.from_pretrained(base_model, local_files_only=True)
        self._model = AutoModelForCausalLM.from_pretrained(base_model, dtype=dtype, local_files_only=True).eval()
        self._end_tokens = _end_tokens(base_model, self._tokenizer)

    def attach(self, folder: Path) -> Any:
        """Attaches the adapter in `folder` to the base model; raises whatever PEFT does if it cannot read it."""
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
        """Answers up to `max_prompts` prompts with up to `max_tokens` tokens each; returns what `check_trial` reads.

        `samples` are rows of samples.jsonl; if there are none, the default prompts are used.
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
        """Returns the adapter's largest change of the first token's logits; stops at a row with a clear difference."""
        largest = 0.0
        with adapted.disable_adapter():
            for row, logits in zip(answers, first_logits, strict=True):
                base = adapted(input_ids=torch.tensor([row["prompt_ids"]]), logits_to_keep=1).logits[0, -1].float()
                largest = max(largest, float((logits - base).abs().max()) if row["finite"] else 0.0)
                if largest > CLEAR_DIFFERENCE:
                    break
        return largest

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
        """Returns whether the adapter ends its turn after the sample's own answer, by one forward pass."""
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
        """Returns the prompts' token ids padded on the left, and their attention mask."""
        longest = max(len(prompt) for prompt in prompts)
        ids = torch.full((len(prompts), longest), self._end_tokens[0])
        mask = torch.zeros((len(prompts), longest), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        return ids, mask


def _shortest(prompts: list[list[int]], max_prompts: int) -> list[list[int]]:
    """Returns the first of `prompts`, which are ordered by length: at most `max_prompts`, and so many that they have at
    most `MAX_PROMPT_TOKENS` in all; the first one in any case.
    """
    chosen: list[list[int]] = []
    for prompt in prompts[:max_prompts]:
        if chosen and sum(map(len, chosen)) + len(prompt) > MAX_PROMPT_TOKENS:
            break
        chosen.append(prompt)
    return chosen


def _end_tokens(base_model: Path, tokenizer: Any) -> list[int]:
    """Returns the ids of the tokens that end an answer: the tokenizer's, and those of generation_config.json."""
    try:
        configured = json.loads((base_model / "generation_config.json").read_text("utf-8")).get("eos_token_id")
    except (OSError, ValueError):
        configured = None
    tokens = [tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])]
    return list(dict.fromkeys(int(token) for token in tokens if token is not None))


def _dtype(base_model: Path) -> Any:
    """Returns the type to compute in: fp32, the most reliable, if it fits easily into memory; else bf16."""
    on_disk = sum(shard.stat().st_size for shard in base_model.glob("*.safetensors"))
    free = free_memory()
    if 2 * on_disk * MEMORY_FACTOR < FP32_MEMORY_SHARE * free:
        return torch.float32
    if on_disk * MEMORY_FACTOR < MAX_MEMORY_SHARE * free:
        return torch.bfloat16
    raise NotEnoughMemory(f"the base model has {on_disk >> 20} MiB, and {free >> 20} MiB of memory are free")
