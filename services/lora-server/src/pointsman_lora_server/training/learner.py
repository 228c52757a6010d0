"""Loads the base model with the adapter to train, configures torch to be fast on a CPU, and saves the result."""

import ctypes
import os
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from pointsman_lora_server.training.adapter_folder import read_parent_config, to_plain_config
from pointsman_lora_server.training.dataset import BaseFolder
from pointsman_lora_server.training.exits import TrainingError
from pointsman_lora_server.training.processes import ALONE, Processes

if TYPE_CHECKING:
    from pointsman_lora_server.training.options import TrainingOptions


MAX_EAGER_ATTENTION_TOKENS = 1024
"""On a CPU, if no row has more tokens than this, the model uses plain ("eager") attention, which is faster than fused
attention (1.05 against 1.35 s a step for 10 rows of 100 tokens). The memory of plain attention grows with the square of
the length, so longer rows use fused attention."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # mallopt(3)

Weights = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Learner:
    model: Any
    """PEFT's model, which contains the base model and the adapter to train."""
    device: str
    bf16: bool
    in_lockstep: Processes = ALONE
    """The processes that must call the model together, with the same rows (see `Processes.in_lockstep`)."""

    def autocast(self) -> Any:
        """Returns a context manager in which torch computes matrix products in bf16 if the field `bf16` is true. The
        weights stay in fp32.
        """
        return torch.autocast(self.device, torch.bfloat16, enabled=self.bf16)

    def without_adapter(self, disabled: bool) -> AbstractContextManager[Any]:
        """Returns a context manager that turns the adapter off during its block if `disabled` is true, and otherwise
        does nothing.
        """
        return self.model.disable_adapter() if disabled else nullcontext()

    def hidden_states(self, ids: Any) -> Any:
        """Returns the hidden states of the base model's last layer, shape [rows, tokens, hidden], for token ids of
        shape [rows, tokens]. The output layer is not applied; see `logits`.
        """
        base = self.model.get_base_model()
        return getattr(base, base.base_model_prefix)(input_ids=ids, use_cache=False).last_hidden_state

    def logits(self, hidden: Any) -> Any:
        """Applies the model's output layer to hidden states of its last layer, shape [..., hidden]. Returns the logits
        in fp32, shape [..., vocabulary].
        """
        base = self.model.get_base_model()
        logits, config = base.get_output_embeddings()(hidden).float(), base.config.get_text_config()
        if cap := getattr(config, "final_logit_softcapping", None):  # Gemma
            logits = cap * torch.tanh(logits / cap)
        # Cohere's factor, and Granite's divisor.
        return logits * (getattr(config, "logit_scale", None) or 1) / (getattr(config, "logits_scaling", None) or 1)

    def parameters(self) -> list[Any]:
        return [weight for weight in self.model.parameters() if weight.requires_grad]

    def weights(self) -> Weights:
        """Returns a copy of the adapter's weights, parameter name -> fp32 tensor on the CPU."""
        state = get_peft_model_state_dict(self.model, adapter_name="default", save_embedding_layers=False)
        return {name: weight.detach().to("cpu", torch.float32, copy=True) for name, weight in state.items()}

    def set_weights(self, weights: Weights) -> None:
        set_peft_model_state_dict(self.model, weights, adapter_name="default")

    def adapter_config(self) -> dict[str, Any]:
        return to_plain_config(self.model.peft_config["default"].to_dict())


def to_safetensors(weights: Weights) -> bytes:
    """Returns the bytes of a safetensors file with the weights in bf16, the type in which the engine computes."""
    return save(
        {name: weight.to(torch.bfloat16).contiguous() for name, weight in weights.items()}, metadata={"format": "pt"}
    )


def open_learner(
    base: BaseFolder,
    options: "TrainingOptions",
    longest: int,
    bf16: bool | None = None,
    processes: Processes = ALONE,
) -> Learner:
    """Loads the base model with a new adapter, or with the parent adapter `options.parent` if there is one.

    A new adapter is initialized from the random seed and does not change the model's output yet. `longest` is the
    number of tokens of the longest row; the attention kernel is chosen by it. `bf16` says whether to compute in bf16;
    None chooses the faster type. Sets torch's number of threads and random seed for this process.

    Raises TrainingError if the parent or the model cannot be trained, or --device asks for a GPU that is missing.
    Errors of transformers and PEFT, for example for damaged weights, are raised as they are.
    """
    torch.set_num_threads(options.threads or max(1, len(os.sched_getaffinity(0)) // processes.size))
    _keep_freed_memory()
    torch.manual_seed(options.recipe.seed)
    device = _device(options.device)
    use_bf16 = bf16 if bf16 is not None else processes.agree(device == "cuda" or _is_bf16_faster())
    # With FSDP, a GPU may be too small for the whole model, so that the weights go there layer by layer.
    loaded_on = "cpu" if processes.uses_fsdp else device
    model = _load_base(base, options.method.base_in_4_bits, longest, loaded_on, use_bf16)
    if options.parent is not None:
        read_parent_config(options.parent, options)
        adapted = PeftModel.from_pretrained(model, str(options.parent), is_trainable=True, torch_device=loaded_on)
    else:
        adapted = get_peft_model(model, _lora_config(options, model))
    if processes.uses_fsdp:
        _divide_weights(adapted, device, processes)
    learner = Learner(adapted, device, use_bf16, processes.in_lockstep)
    _check_logits(learner)
    return learner


def _divide_weights(adapted: Any, device: str, processes: Processes) -> None:
    """Divides the weights of the base model's layers among the processes, and moves all weights to `device`.

    Embeddings, output layer and adapter stay whole in every process. Raises TrainingError if transformers does not say
    which of the model's modules are its layers.
    """
    base = adapted.get_base_model()
    names = set(base._no_split_modules or ())
    layers = [module for module in adapted.modules() if type(module).__name__ in names]
    if not layers:
        raise TrainingError(f"--fsdp: {type(base).__name__} does not name its layers; leave out --fsdp")
    trained = {weight for weight in adapted.parameters() if weight.requires_grad}
    mesh = init_device_mesh(device, (processes.size,))
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=trained)
    adapted.to(device)


def _check_logits(learner: Learner) -> None:
    """Raises TrainingError if `Learner.logits` does not reproduce the model's own logits."""
    ids = torch.arange(1, 9, device=learner.device)[None]
    with torch.no_grad():
        expected, found = learner.model(input_ids=ids).logits.float(), learner.logits(learner.hidden_states(ids))
    if not torch.allclose(expected, found, rtol=1e-2, atol=1e-2):
        raise TrainingError(
            f"--base-model: the logits of {type(learner.model.get_base_model()).__name__} are not those of its output "
            "layer alone; this trainer cannot train adapters for it"
        )


def merge_and_save(learner: Learner, base: BaseFolder, folder: Path) -> None:
    """Adds the adapter to the base model's weights, and writes the merged model and the tokenizer into the existing
    `folder`.

    The weights are added in the type in which they were loaded, and rounded to bf16 at the end. `learner` is changed
    and must not be used afterwards.
    """
    with torch.no_grad():
        merged = learner.model.merge_and_unload().to(torch.bfloat16)
    merged.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        # Weights are written for their owner alone; the engine may run as another user who may read the folder.
        path.chmod(0o644 & folder.stat().st_mode)


def _load_base(base: BaseFolder, in_4_bits: bool, longest: int, device: str, bf16: bool) -> Any:
    attention = "eager" if longest <= MAX_EAGER_ATTENTION_TOKENS and device == "cpu" else "sdpa"
    options: dict[str, Any] = {"attn_implementation": attention, "local_files_only": True, "device_map": {"": device}}
    if in_4_bits:
        compute_dtype = torch.bfloat16 if bf16 else torch.float32
        options["dtype"] = compute_dtype
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute_dtype,
        )
    else:
        options["dtype"] = torch.float32
    model = AutoModelForCausalLM.from_pretrained(base.folder, **options)
    for weight in model.parameters():
        weight.requires_grad_(False)
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            # bitsandbytes packs a layer's weights for good when it is first used in eval mode, and the product with
            # packed weights has no backward pass: layers below would silently get no gradient.
            layer.support_avx512bf16_for_cpu = False
    return model


def _lora_config(options: "TrainingOptions", model: Any) -> LoraConfig:
    return LoraConfig(
        r=options.recipe.rank,
        lora_alpha=options.recipe.alpha,
        lora_dropout=0.0,
        target_modules=_linear_layers(model),
        bias="none",
        task_type="CAUSAL_LM",
        **options.method.peft_options(),
    )


def _linear_layers(model: Any) -> list[str]:
    """Returns the last component of the name of each linear layer except the output layer, such as "q_proj", sorted and
    without duplicates.
    """
    output = model.get_output_embeddings()
    layers = {
        name.rsplit(".", 1)[-1]
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and layer is not output
    }
    return sorted(layers)


def _device(requested: str) -> str:
    has_gpu = torch.cuda.is_available()
    if requested == "cuda" and not has_gpu:
        raise TrainingError("--device cuda: this environment's torch finds no GPU")
    return "cuda" if has_gpu and requested != "cpu" else "cpu"


def _is_bf16_faster() -> bool:
    """Measures a matrix product on this CPU, and returns whether it is faster in bf16 than in fp32. Takes some
    milliseconds.
    """
    return _product_seconds(torch.bfloat16) < _product_seconds(torch.float32)


def _product_seconds(dtype: Any) -> float:
    left, right = torch.ones((512, 576), dtype=dtype), torch.ones((576, 1536), dtype=dtype)
    seconds = []
    for _ in range(8):
        started = time.perf_counter()
        torch.mm(left, right)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _keep_freed_memory() -> None:
    """Makes glibc's allocator keep freed memory in the process. Returning memory to the kernel and requesting it again
    at each step would take 15 % of the time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 << 20)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
