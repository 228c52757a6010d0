"""The base model in memory, with a fresh adapter on all its linear layers, set up to be fast on a CPU."""

import ctypes
import enum
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save
from transformers import AutoModelForCausalLM, AutoTokenizer

from pointsman_lora_server.training.batches import Batch
from pointsman_lora_server.training.data import Message
from pointsman_lora_server.training.errors import TrainingError
from pointsman_lora_server.training.job import Recipe

# Below it plain attention trains faster on a CPU than the fused one (1.05 against 1.35 s a step for 10 rows of 100
# tokens); above it, its memory, which grows with the square, is the reason against it.
MOST_TOKENS_OF_PLAIN_ATTENTION = 1024
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # mallopt(3)


@dataclass(frozen=True, slots=True)
class Base:
    folder: Path
    tokenizer: Any

    def render(self, messages: Sequence[Message], answer_next: bool) -> list[int]:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        ids = self.tokenizer.apply_chat_template(turns, add_generation_prompt=answer_next, return_dict=False)
        return [int(token) for token in ids]

    @property
    def end_of_turn(self) -> int:
        return int(self.tokenizer.eos_token_id)


@dataclass(frozen=True, slots=True)
class Learner:
    model: Any  # PEFT's, around the base
    bf16: bool

    def autocast(self) -> Any:
        """The weights stay fp32; products are done in bf16 where the CPU is faster with it."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.bf16)

    def states(self, batch: Batch) -> tuple[Any, Any]:
        """The last hidden state before each learnt token, `[learnt, hidden]`, and those tokens, `[learnt]`.

        The output layer (a fifth of a small model's work) is left to the caller, for the learnt tokens only. Rows are
        padded on the right, where causal attention cannot look, so that no mask is needed.
        """
        longest = max(len(example.ids) for example in batch)
        ids = torch.zeros((len(batch), longest), dtype=torch.long)
        learnt = torch.zeros((len(batch), longest), dtype=torch.bool)
        for row, example in enumerate(batch):
            ids[row, : len(example.ids)] = torch.tensor(example.ids)
            learnt[row, example.prompt_length : len(example.ids)] = True
        hidden = self.model.get_base_model().model(input_ids=ids, use_cache=False).last_hidden_state
        return hidden[:, :-1][learnt[:, 1:]], ids[learnt]

    def logits(self, hidden: Any) -> Any:
        return self.model.get_base_model().lm_head(hidden).float()

    def weights(self) -> list[Any]:
        return [weight for weight in self.model.parameters() if weight.requires_grad]

    def adapter_weights(self) -> bytes:
        """A safetensors file in bf16: what the engine computes in anyhow, half the size of PEFT's fp32."""
        weights = get_peft_model_state_dict(self.model)
        return save(
            {name: weight.detach().to(torch.bfloat16).contiguous() for name, weight in weights.items()},
            metadata={"format": "pt"},
        )

    def adapter_config(self) -> dict[str, Any]:
        """Sets become sorted lists: a set has another order in each process, and so the file another hash."""
        config: dict[str, Any] = self.model.peft_config["default"].to_dict()
        plain = {key: _plain(value) for key, value in sorted(config.items())}
        return plain | {"inference_mode": True}


def open_base(folder: Path) -> Base:
    if not (folder / "config.json").is_file():
        raise TrainingError(f"--base-model {folder} holds no config.json; name the folder of a Hugging Face model")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if not tokenizer.chat_template:
        raise TrainingError(f"--base-model {folder} has no chat template; an instruction-tuned model brings one")
    return Base(folder, tokenizer)


def open_learner(base: Base, recipe: Recipe, threads: int | None, longest: int) -> Learner:
    """`longest` is the longest row in tokens. The adapter starts from the seed, as one that changes nothing."""
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    _keep_memory()
    torch.manual_seed(recipe.seed)
    attention = "eager" if longest <= MOST_TOKENS_OF_PLAIN_ATTENTION else "sdpa"
    model = AutoModelForCausalLM.from_pretrained(
        base.folder, dtype=torch.float32, attn_implementation=attention, local_files_only=True
    )
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=0.0,
        target_modules=_linear_layers(model),
        bias="none",
        task_type="CAUSAL_LM",
    )
    return Learner(get_peft_model(model, config), _bf16_is_faster())


def _linear_layers(model: Any) -> list[str]:
    """The last part of their names, all but the output layer's: an engine does not adapt that one."""
    output = model.get_output_embeddings()
    layers = {
        name.rsplit(".", 1)[-1]
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and layer is not output
    }
    return sorted(layers)


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    return sorted(value) if isinstance(value, set | frozenset) else value


def _bf16_is_faster() -> bool:
    """Tried for some milliseconds: about 3x with AVX512-BF16 or AMX, slower than fp32 without."""
    return _product_seconds(torch.bfloat16) < _product_seconds(torch.float32)


def _product_seconds(dtype: Any) -> float:
    left, right = torch.ones((512, 576), dtype=dtype), torch.ones((576, 1536), dtype=dtype)
    seconds = []
    for _ in range(8):
        started = time.perf_counter()
        torch.mm(left, right)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _keep_memory() -> None:
    """Asks glibc to keep freed blocks: giving them back and faulting them in at each step costs 15 % of the time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 << 20)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
