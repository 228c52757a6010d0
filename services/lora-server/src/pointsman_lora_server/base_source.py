"""Checks that a model of the user can be the base model: `python -m pointsman_lora_server.base_source FOLDER`.

Runs in the engine's environment. With `--hub NAME`, the model is downloaded into the folder first. The last line of the
output is a JSON object: the properties that `inspect` returns, and `has_gpu`.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pointsman_lora_server.base_model import BaseModelError
from pointsman_lora_server.checks.base_layers import read_base
from pointsman_lora_server.machine import free_memory
from pointsman_lora_server.model_folder import PATTERNS, UNNEEDED, read_context_window, read_json

GIB = 1 << 30
KV_CACHE_BYTES = 2 * GIB
"""Memory that must be free for the KV cache in addition to the weights, in bytes."""


def download(name: str, folder: Path) -> None:
    """Downloads the missing files of the Hugging Face repository `name` into the folder, and prints its progress.

    If the hub cannot be reached and the folder has a config.json, the folder is used as it is. Raises BaseModelError if
    `name` is invalid, there is no such repository, it needs a token, or the hub cannot be reached and the folder has no
    config.json.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    print(f"downloading {name} from the Hugging Face hub into {folder}", flush=True)
    try:
        snapshot_download(name, local_dir=folder, allow_patterns=[*PATTERNS], ignore_patterns=[*UNNEEDED])
    except HFValidationError as error:
        raise BaseModelError(f"'{name}' is no name at the Hugging Face hub (OWNER/NAME): {error}") from error
    except GatedRepoError as error:
        raise BaseModelError(
            f"{name} is gated: accept its licence at https://huggingface.co/{name}, and set HF_TOKEN to a token"
        ) from error
    except RepositoryNotFoundError as error:
        raise BaseModelError(
            f"the Hugging Face hub has no model '{name}', or none that may be read without HF_TOKEN; check the name"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        if (folder / "config.json").is_file():
            print(f"the Hugging Face hub is not reachable; {folder} is used as it is", flush=True)
            return
        reason = str(error.__cause__ or error).strip().splitlines()[0][:200]
        raise BaseModelError(
            f"'{name}' cannot be downloaded: the Hugging Face hub is not reachable ({reason}); name a local folder"
        ) from error


def inspect(folder: Path) -> dict[str, Any]:
    """Returns the properties of the model in `folder`: `context_window` (in tokens), `weight_bytes`, `layers` (the
    number of linear layers), `has_chat_template` and `architecture`.

    Raises BaseModelError unless the folder has a complete model in Hugging Face's format, with safetensors, a
    tokenizer, a known context window and linear layers.
    """
    if not folder.is_dir():
        raise BaseModelError(f"there is no folder {folder}")
    if (folder / "adapter_config.json").is_file():
        base = read_json(folder / "adapter_config.json").get("base_model_name_or_path", "its base model")
        raise BaseModelError(f"{folder} is an adapter; serve '{base}', and register the adapter")
    if not (folder / "config.json").is_file():
        raise BaseModelError(f"{folder} is no model in Hugging Face's format: it has no config.json")
    config = read_json(folder / "config.json")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise BaseModelError(f"{folder} has no *.safetensors; convert its weights, with transformers' save_pretrained")
    _check_shards(folder, weights)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise BaseModelError(f"{folder} has no tokenizer (tokenizer.json or tokenizer.model)")
    try:
        base = read_base(folder, folder.name)
    except OSError as error:
        raise BaseModelError(str(error)) from error
    if not base.layers:
        raise BaseModelError(f"{folder} has no linear layers that adapters could change")
    return {
        "context_window": read_context_window(folder),
        "weight_bytes": sum(file.stat().st_size for file in weights),
        "layers": len(base.layers),
        "has_chat_template": bool(base.chat_template_sha256),
        "architecture": next(iter(config.get("architectures") or ["unknown"])),
    }


def _check_shards(folder: Path, weights: Sequence[Path]) -> None:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        needed = set(read_json(index).get("weight_map", {}).values())
        missing = sorted(needed - {file.name for file in weights})
        if missing:
            raise BaseModelError(f"{folder} is incomplete: {missing[0]} is missing, of {len(needed)} files of weights")


def check_fit(weight_bytes: int, gpu_bytes: int, free_bytes: int) -> None:
    """Raises BaseModelError unless the weights and the KV cache (`KV_CACHE_BYTES`) fit into the free memory.

    The free memory is `gpu_bytes`, that of the GPUs, or if this is 0, `free_bytes`, that of the machine.
    """
    available, where = (gpu_bytes, "its GPUs have") if gpu_bytes else (free_bytes, "it has")
    if weight_bytes + KV_CACHE_BYTES > available:
        raise BaseModelError(
            f"the model does not fit: its weights take {weight_bytes / GIB:.1f} GiB, and the KV cache "
            f"{KV_CACHE_BYTES / GIB:.0f} GiB; {where} {available / GIB:.1f} GiB of free memory. Take a smaller or a "
            "quantized model"
        )


def gpu_memory() -> int:
    """Returns the free memory of all NVIDIA GPUs together, in bytes; 0 if there is no GPU."""
    program = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(program, capture_output=True, text=True, timeout=20, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(int(line) << 20 for line in lines if line.isdigit())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m pointsman_lora_server.base_source", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hub", metavar="NAME", help="download it into the folder")
    given = parser.parse_args()
    folder: Path = given.folder.absolute()
    try:
        if given.hub:
            download(given.hub, folder)
        facts = inspect(folder)
        gpu = gpu_memory()
        check_fit(facts["weight_bytes"], gpu, free_memory())
    except BaseModelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps({**facts, "has_gpu": bool(gpu)}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
