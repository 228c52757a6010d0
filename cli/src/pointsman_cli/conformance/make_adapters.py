"""Makes the adapters of the swap test from a base model's config.json, without its weights and without training.

Runs as a script in an environment with torch, transformers and PEFT, such as the engine's:

    python make_adapters.py BASE_FOLDER OUT_FOLDER --served-name NAME --versions 8

PEFT chooses the modules by the model's architecture (the attention's query and value, as a rule) and names the tensors.
Each version has random weights of its own seed, as strong as the base model's, so that its answers, and the keys and
values in its cache, differ from those of all others. The unfit adapters are copies with one defect each.
"""

import argparse
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

STRENGTH = 3.0
"""How strong a test adapter is: the root mean square of what it adds to a layer's output, for an input with the root
mean square 1.
"""

Tensors = dict[str, torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description="make the adapters of the swap test")
    parser.add_argument("base", type=Path, help="a folder with the base model's config.json")
    parser.add_argument("out", type=Path)
    parser.add_argument("--served-name", required=True, help="the base model's name at the engine")
    parser.add_argument("--versions", type=int, default=8)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--strength", type=float, default=STRENGTH)
    options = parser.parse_args()
    shapes, config = adapter_form(options.base, options.served_name, options.rank)
    versions = [random_weights(shapes, seed, options.rank, options.strength) for seed in range(options.versions)]
    for number, weights in enumerate(versions):
        write(options.out / f"version-{number}", weights, config)
    for kind, spoil in UNFIT.items():
        write(options.out / kind, spoil(dict(versions[0])), config)
    facts = {"versions": options.versions, "rank": options.rank, "base": options.served_name}
    (options.out / "adapters.json").write_text(json.dumps(facts) + "\n")


def adapter_form(base: Path, served_name: str, rank: int) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    """Returns the shapes of an adapter's tensors by their names, and the content of its adapter_config.json.

    `base` is a folder with the base model's config.json, `served_name` the base model's name at the engine, and `rank`
    the adapter's rank. No weights are read. Raises what transformers raises if it does not know the architecture.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base, local_files_only=True))
        try:
            adapted = get_peft_model(model, LoraConfig(r=rank, task_type="CAUSAL_LM"))
        except ValueError:  # PEFT has no choice of modules for this architecture
            adapted = get_peft_model(model, LoraConfig(r=rank, task_type="CAUSAL_LM", target_modules="all-linear"))
    weights = get_peft_model_state_dict(adapted)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": served_name,
        "r": rank,
        "lora_alpha": rank,
        "target_modules": sorted({name.split(".lora_")[0].rsplit(".", 1)[-1] for name in weights}),
        "bias": "none",
    }
    return {name: tuple(weight.shape) for name, weight in weights.items()}, config


def random_weights(shapes: Mapping[str, tuple[int, ...]], seed: int, rank: int, strength: float) -> Tensors:
    random = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        scale = strength * rank**-0.5 if ".lora_B" in name else shape[-1] ** -0.5
        weights[name] = (torch.randn(shape, generator=random) * scale).to(torch.bfloat16)
    return weights


def write(folder: Path, weights: Tensors, config: Mapping[str, Any]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save_file(
        {name: weight.contiguous() for name, weight in weights.items()},
        folder / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    # Weights are written for their owner alone; the engine may run as another user.
    (folder / "adapter_model.safetensors").chmod(0o644)


def _with_other_names(weights: Tensors) -> Tensors:
    """Renames the layers as no model does; the names of the tensors keep PEFT's form."""
    return {name.replace(".layers.", ".strata.").replace(".h.", ".strata."): each for name, each in weights.items()}


def _with_smaller_shapes(weights: Tensors) -> Tensors:
    """Halves what the layers take and return, as the layers of a smaller base model would."""
    return {
        name: weight[: weight.shape[0] // 2] if ".lora_B" in name else weight[:, : weight.shape[1] // 2]
        for name, weight in weights.items()
    }


def _with_larger_end(weights: Tensors) -> Tensors:
    """Doubles the last tensor alone, so that an engine that copies them in order fails after the others."""
    last = [name for name in weights if ".lora_B" in name][-1]
    return weights | {last: torch.cat([weights[last], weights[last]])}


def _with_nan(weights: Tensors) -> Tensors:
    return {name: torch.full_like(weight, torch.nan) for name, weight in weights.items()}


UNFIT: dict[str, Callable[[Tensors], Tensors]] = {
    "other-names": _with_other_names,
    "smaller-shapes": _with_smaller_shapes,
    "half-broken": _with_larger_end,
    "nan": _with_nan,
}
"""The functions that make an unfit adapter from the weights of a good one, by the unfit adapter's name."""


if __name__ == "__main__":
    main()
