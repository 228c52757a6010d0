"""Merges an adapter into the base model's weights: `python -m pointsman_lora_server.smoke.merge`, run in the engine's
environment.

It is meant for adapters that an engine cannot serve as adapters (with DoRA, modules_to_save or a bias). The result is a
complete model, which needs its own engine.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path


class MergeError(Exception):
    """The adapter cannot be merged; the message says why."""


def merge(base: Path, adapter: Path, out: Path) -> None:
    """Merges an adapter into the base model, and writes the result as a Hugging Face folder in the base model's number
    type.

    The folder `out` appears complete or not at all. Raises MergeError if a folder lacks a file, `out` is a file or not
    empty, or PEFT cannot load the adapter. Errors of transformers, for example for a damaged base model, are raised as
    they are.
    """
    if out.exists() and not out.is_dir():
        raise MergeError(f"--out {out} is no folder; name a new one")
    if out.exists() and any(out.iterdir()):
        raise MergeError(f"--out {out} is not empty; name a new folder")
    for folder, file in ((base, "config.json"), (adapter, "adapter_config.json")):
        if not (folder / file).is_file():
            raise MergeError(f"{folder} holds no {file}")
    if not (adapter / "adapter_model.safetensors").is_file():
        raise MergeError(f"{adapter} holds no adapter_model.safetensors; other formats can run code, and are not read")
    # Imported here: they take seconds, and wrong arguments should be reported first.
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # In fp32, rounded once at the end: in bf16 the adapter's changes would be lost to rounding.
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True)
    try:
        adapted = PeftModel.from_pretrained(model, str(adapter))
    except Exception as error:  # PEFT raises errors of many classes
        raise MergeError(f"PEFT cannot load {adapter}: {type(error).__name__}: {error}") from error
    merged = adapted.merge_and_unload(safe_merge=True).to(_dtype(model.config, torch))
    if hasattr(merged.config, "quantization_config"):
        del merged.config.quantization_config  # the merged weights are not quantized
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        new = Path(scratch) / "model"
        merged.save_pretrained(new)
        AutoTokenizer.from_pretrained(base, local_files_only=True).save_pretrained(new)
        for path in new.iterdir():
            # Weights are written for their owner alone; the engine may run as another user who may read the folder.
            path.chmod(0o644 & new.stat().st_mode)
        if out.exists():
            out.rmdir()
        shutil.move(new, out)


def _dtype(config: object, torch: object) -> object:
    dtype = getattr(config, "dtype", None) or "bfloat16"
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m pointsman_lora_server.smoke.merge", description=merge.__doc__)
    parser.add_argument("--base", type=Path, required=True, help="the base model's folder")
    parser.add_argument("--adapter", type=Path, required=True, help="the adapter's folder")
    parser.add_argument("--out", type=Path, required=True, help="the new model's folder")
    options = parser.parse_args()
    try:
        merge(options.base.absolute(), options.adapter.absolute(), options.out.absolute())
    except MergeError as error:
        print(f"merge: {error}", file=sys.stderr)
        return 1
    print(f"{options.out} is ready: serve it with an engine of its own")
    return 0


if __name__ == "__main__":
    sys.exit(main())
