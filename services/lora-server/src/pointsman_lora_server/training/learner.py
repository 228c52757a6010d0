"""The base model in memory with the adapter that learns, set up to be fast on a CPU."""

import ctypes
import os
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import save
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from pointsman_lora_server.training.adapter_config import parent_config, plain_config
from pointsman_lora_server.training.base import BaseFolder
from pointsman_lora_server.training.errors import TrainingError
from pointsman_lora_server.training.job import DORA, QLORA, RSLORA, TrainingOptions

# Below it plain attention trains faster on a CPU than the fused one (1.05 against 1.35 s a step for 10 rows of 100
# tokens); above it, its memory, which grows with the square, is the reason against it.
MOST_TOKENS_OF_PLAIN_ATTENTION = 1024
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # mallopt(3)

Weights = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Learner:
    model: Any  # PEFT's, around the base
    device: str
    bf16: bool

    def autocast(self) -> Any:
        """The weights stay fp32; products are done in bf16 where the machine is faster with it."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.bf16)

    def without_adapter(self, without: bool) -> AbstractContextManager[Any]:
        """The base model itself, for the block's length, where `without` is true."""
        return self.model.disable_adapter() if without else nullcontext()

    def logits(self, hidden: Any) -> Any:
        return self.model.get_base_model().lm_head(hidden).float()

    def parameters(self) -> list[Any]:
        return [weight for weight in self.model.parameters() if weight.requires_grad]

    def weights(self) -> Weights:
        """A copy of the adapter's, in fp32."""
        found = get_peft_model_state_dict(self.model, adapter_name="default", save_embedding_layers=False)
        return {name: weight.detach().to("cpu", torch.float32, copy=True) for name, weight in found.items()}

    def set_weights(self, weights: Weights) -> None:
        set_peft_model_state_dict(self.model, weights, adapter_name="default")

    def adapter_config(self) -> dict[str, Any]:
        return plain_config(self.model.peft_config["default"].to_dict())


def as_safetensors(weights: Weights) -> bytes:
    """A file in bf16: what the engine computes in anyhow, half the size of PEFT's fp32."""
    return save(
        {name: weight.to(torch.bfloat16).contiguous() for name, weight in weights.items()}, metadata={"format": "pt"}
    )


def open_learner(base: BaseFolder, job: TrainingOptions, longest: int, bf16: bool | None = None) -> Learner:
    """`longest` is the longest row in tokens; `bf16` says what an earlier run of the job has chosen.

    A fresh adapter starts from the seed, as one that changes nothing; with a parent it starts as that one.
    """
    torch.set_num_threads(job.threads or len(os.sched_getaffinity(0)))
    _keep_memory()
    torch.manual_seed(job.recipe.seed)
    device = _device(job.device)
    chosen = bf16 if bf16 is not None else (device == "cuda" or _bf16_is_faster())
    model = _load(base, job.recipe.method, longest, device, chosen)
    if job.parent is not None:
        parent_config(job.parent, job)
        adapted = PeftModel.from_pretrained(model, str(job.parent), is_trainable=True, torch_device=device)
    else:
        adapted = get_peft_model(model, _fresh(job, model))
    return Learner(adapted, device, chosen)


def _load(base: BaseFolder, method: str, longest: int, device: str, bf16: bool) -> Any:
    attention = "eager" if longest <= MOST_TOKENS_OF_PLAIN_ATTENTION and device == "cpu" else "sdpa"
    options: dict[str, Any] = {"attn_implementation": attention, "local_files_only": True, "device_map": {"": device}}
    if method == QLORA:
        computed = torch.bfloat16 if bf16 else torch.float32
        options["dtype"] = computed
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=computed,
        )
    else:
        options["dtype"] = torch.float32
    model = AutoModelForCausalLM.from_pretrained(base.folder, **options)
    for weight in model.parameters():
        weight.requires_grad_(False)
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            # bitsandbytes packs the weights for good when a layer is first used in eval mode, and what multiplies
            # packed ones has no way back: layers above would learn, those below would get no gradient, silently.
            layer.support_avx512bf16_for_cpu = False
    return model


def _fresh(job: TrainingOptions, model: Any) -> LoraConfig:
    return LoraConfig(
        r=job.recipe.rank,
        lora_alpha=job.recipe.alpha,
        lora_dropout=0.0,
        target_modules=_linear_layers(model),
        bias="none",
        task_type="CAUSAL_LM",
        use_rslora=job.recipe.method == RSLORA,
        use_dora=job.recipe.method == DORA,
    )


def _linear_layers(model: Any) -> list[str]:
    """The last part of their names, all but the output layer's: an engine does not adapt that one."""
    output = model.get_output_embeddings()
    layers = {
        name.rsplit(".", 1)[-1]
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and layer is not output
    }
    return sorted(layers)


def _device(wanted: str) -> str:
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise TrainingError("--device cuda: this environment's torch sees no GPU")
    return "cuda" if there and wanted != "cpu" else "cpu"


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
