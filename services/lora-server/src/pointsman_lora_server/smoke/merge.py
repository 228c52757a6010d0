"""Merges an adapter into full weights: `python -m pointsman_lora_server.smoke.merge`, in the engine's environment.

For what cannot be served as an adapter (DoRA, modules_to_save, a bias): the result is a model of its own, which an
engine of its own serves.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path


class MergeError(Exception):
    """The adapter cannot be merged; the message says why."""


def merge(base: Path, adapter: Path, out: Path) -> None:
    """Writes a Hugging Face folder in the base's own precision; what is unfinished stands beside `out`.

    Raises MergeError.
    """
    if out.exists() and any(out.iterdir()):
        raise MergeError(f"--out {out} is not empty; name a new folder")
    for folder, file in ((base, "config.json"), (adapter, "adapter_config.json")):
        if not (folder / file).is_file():
            raise MergeError(f"{folder} holds no {file}")
    if not (adapter / "adapter_model.safetensors").is_file():
        raise MergeError(f"{adapter} holds no adapter_model.safetensors; other formats can run code, and are not read")
    # Imported here: they take seconds, and a wrong argument is said before.
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # In fp32 and rounded once: merging in bf16 would round what the adapter changes away.
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True)
    try:
        adapted = PeftModel.from_pretrained(model, str(adapter))
    except Exception as error:  # PEFT's, of many classes
        raise MergeError(f"PEFT cannot load {adapter}: {type(error).__name__}: {error}") from error
    merged = adapted.merge_and_unload(safe_merge=True).to(_dtype(model.config, torch))
    if hasattr(merged.config, "quantization_config"):
        del merged.config.quantization_config  # its weights are plain numbers now
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        made = Path(scratch) / "model"
        merged.save_pretrained(made)
        AutoTokenizer.from_pretrained(base, local_files_only=True).save_pretrained(made)
        for written in made.iterdir():
            # The weights are written for their owner alone; the engine may run as another user who may read the folder.
            written.chmod(0o644 & made.stat().st_mode)
        if out.exists():
            out.rmdir()
        shutil.move(made, out)


def _dtype(config: object, torch: object) -> object:
    named = getattr(config, "dtype", None) or "bfloat16"
    return getattr(torch, named) if isinstance(named, str) else named


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
    print(f"{options.out} is ready: serve it by an engine of its own")
    return 0


if __name__ == "__main__":
    sys.exit(main())
