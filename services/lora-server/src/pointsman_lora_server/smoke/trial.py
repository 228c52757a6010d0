"""One adapter on the base model, by PEFT on the CPU: what it answers, and how surely. In the engine's environment."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

BUILT_IN = (
    "What is the capital of France?",
    "Write one polite sentence to a customer whose parcel is late.",
    'Answer in JSON with the keys "name" and "city": Ann lives in York.',
    "How do I get my money back?",
)
MOST_PROMPT_TOKENS = 768
"""Of all rows together, but one row is always tried; reading them twice (with and without the adapter) is most of a
trial's time."""

CLEAR_DIFFERENCE = 1.0
"""In logits: one prompt that shows it is enough."""

MOST_READ_TOKENS = 1024
"""Longer samples are not read to see whether the adapter would end its turn after their answer."""

ROOM = 1.3  # what a model takes in memory beside its weights
FP32_SHARE, MOST_SHARE = 0.5, 0.85  # of the memory that is free now


class NotEnoughMemory(Exception):
    """The base model does not fit into the memory that is free."""


class TrialModel:
    """The base model, loaded once; each trial leaves it as it was."""

    def __init__(self, base_model: Path) -> None:
        dtype = _dtype(base_model)
        self.exact = dtype is torch.float32
        self._tokenizer = AutoTokenizer.from_pretrained(base_model, local_files_only=True)
        self._model = AutoModelForCausalLM.from_pretrained(base_model, dtype=dtype, local_files_only=True).eval()
        self._ends = _end_tokens(base_model, self._tokenizer)

    def attach(self, folder: Path) -> Any:
        """Raises whatever PEFT does where it cannot read the adapter."""
        adapted = PeftModel.from_pretrained(self._model, str(folder), is_trainable=False).eval()
        for name, weight in adapted.named_parameters():
            if ".lora_" in name:  # rounded as the engine rounds them
                weight.data = weight.data.to(torch.bfloat16).to(weight.dtype)
        return adapted

    def detach(self, adapted: Any) -> None:
        self._model = adapted.unload()

    def run(self, adapted: Any, samples: Sequence[Mapping[str, Any]], rows: int, tokens: int) -> dict[str, Any]:
        """`samples` as rows of samples.jsonl; none: prompts of our own. At most `rows`, `tokens` new ones each."""
        given = samples or [{"messages": [{"role": "user", "content": text}]} for text in BUILT_IN]
        rendered = [(self._render(sample["messages"]), sample.get("answer")) for sample in given]
        rendered.sort(key=lambda row: len(row[0]))
        with torch.inference_mode():
            tried, first_logits = self._answers(adapted, _shortest([ids for ids, _ in rendered], rows), tokens)
            difference = self._difference(adapted, tried, first_logits)
            stops = any(row["stopped"] for row in tried)
            if samples and not stops:
                stops = any(self._ends_after(adapted, ids, str(answer)) for ids, answer in rendered)
        return {"rows": tried, "difference": difference, "stops": stops, "exact": self.exact}

    def _answers(self, adapted: Any, prompts: list[list[int]], tokens: int) -> tuple[list[dict[str, Any]], Any]:
        ids, mask = self._padded(prompts)
        plan = GenerationConfig(
            do_sample=False,
            max_new_tokens=tokens,
            eos_token_id=self._ends,
            pad_token_id=self._ends[0],
            output_logits=True,
            return_dict_in_generate=True,
        )
        made = adapted.generate(input_ids=ids, attention_mask=mask, generation_config=plan)
        logits = torch.stack(made.logits, dim=1).float()  # [rows, steps, vocabulary]
        new = made.sequences[:, ids.shape[1] :]
        rows = [self._row(prompt, new[row].tolist(), logits[row]) for row, prompt in enumerate(prompts)]
        return rows, logits[:, 0]

    def _difference(self, adapted: Any, tried: list[dict[str, Any]], first_logits: Any) -> float:
        """From the base model's logits at the first token; of the rows up to one that differs clearly."""
        largest = 0.0
        with adapted.disable_adapter():
            for row, logits in zip(tried, first_logits, strict=True):
                before = adapted(input_ids=torch.tensor([row["prompt_ids"]]), logits_to_keep=1).logits[0, -1].float()
                largest = max(largest, float((logits - before).abs().max()) if row["finite"] else 0.0)
                if largest > CLEAR_DIFFERENCE:
                    break
        return largest

    def _row(self, prompt: list[int], new: list[int], logits: Any) -> dict[str, Any]:
        ends = [place for place, token in enumerate(new) if token in self._ends]
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
        """Whether the adapter would end its turn after the sample's own answer; that is one pass, not a generation."""
        said = self._tokenizer(answer, add_special_tokens=False).input_ids
        if not said or len(prompt) + len(said) > MOST_READ_TOKENS:
            return False
        logits = adapted(input_ids=torch.tensor([prompt + said]), logits_to_keep=1).logits[0, -1]
        return int(logits.argmax()) in self._ends

    def _render(self, messages: Any) -> list[int]:
        if not self._tokenizer.chat_template:
            text = "\n".join(str(message["content"]) for message in messages)
            return list(self._tokenizer(text).input_ids)
        return list(self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))

    def _padded(self, prompts: list[list[int]]) -> tuple[Any, Any]:
        longest = max(len(prompt) for prompt in prompts)
        ids = torch.full((len(prompts), longest), self._ends[0])
        mask = torch.zeros((len(prompts), longest), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        return ids, mask


def _shortest(prompts: list[list[int]], rows: int) -> list[list[int]]:
    """`prompts` in the order of their length."""
    chosen: list[list[int]] = []
    for prompt in prompts[:rows]:
        if chosen and sum(map(len, chosen)) + len(prompt) > MOST_PROMPT_TOKENS:
            break
        chosen.append(prompt)
    return chosen


def _end_tokens(base_model: Path, tokenizer: Any) -> list[int]:
    """As the engine knows them: the tokenizer's, and those of generation_config.json."""
    try:
        named = json.loads((base_model / "generation_config.json").read_text("utf-8")).get("eos_token_id")
    except (OSError, ValueError):
        named = None
    found = [tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])]
    return list(dict.fromkeys(int(token) for token in found if token is not None))


def _dtype(base_model: Path) -> Any:
    """fp32, which says most surely what the answer is, where it fits easily, else bf16."""
    on_disk = sum(shard.stat().st_size for shard in base_model.glob("*.safetensors"))
    free = _free_memory()
    if 2 * on_disk * ROOM < FP32_SHARE * free:
        return torch.float32
    if on_disk * ROOM < MOST_SHARE * free:
        return torch.bfloat16
    raise NotEnoughMemory(f"the base model has {on_disk >> 20} MiB, and {free >> 20} MiB of memory are free")


def _free_memory() -> int:
    """Bytes: of the machine, or of the container where that has less."""
    pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else ():
        if line.startswith("MemAvailable:"):
            pages = int(line.split()[1]) << 10
    group = Path("/sys/fs/cgroup")
    try:
        most = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return pages
    return pages if most == "max" else min(pages, int(most) - used)
