"""The adapter's folder, all of it or none: configuration, weights, report, held-out samples, perhaps a merged model."""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pointsman_lora_server.training.data import Conversation
from pointsman_lora_server.training.errors import TrainingError

CONFIG, WEIGHTS, REPORT = "adapter_config.json", "adapter_model.safetensors", "training.json"
SAMPLES = "samples.jsonl"
"""Held-out rows: {"messages": [those of the prompt], "answer": "..."}."""
MERGED = "merged"
"""A folder: where the adapter cannot be served as one, the whole model that can."""


@dataclass(frozen=True, slots=True)
class Adapter:
    weights: bytes
    config: Mapping[str, object]
    report: Mapping[str, object]
    samples: Sequence[Conversation] = ()
    merge: Callable[[Path], None] | None = None
    """Writes the merged model into the folder that it is given."""


def check_target(folder: Path, option: str = "--out") -> None:
    """Raises where writing would fail, or would destroy what is not an adapter."""
    if folder.exists() and not folder.is_dir():
        raise TrainingError(f"{option} {folder} is a file; name a folder")
    found = {path.name for path in folder.iterdir()} if folder.exists() else set()
    strange = sorted(found - {CONFIG, WEIGHTS, REPORT, SAMPLES, MERGED})
    if strange:
        raise TrainingError(
            f"{option} {folder} holds {strange[0]!r}, which is no adapter's; name an empty or a new folder"
        )


def check_merged_target(folder: Path) -> None:
    """Raises where the merged model would replace what is no model."""
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / "config.json").exists())):
        raise TrainingError(f"--merged-out {folder} holds something that is no model; name an empty or a new folder")


def write(folder: Path, adapter: Adapter) -> None:
    """Replaces an older adapter in `folder`. What is unfinished stands beside it: nobody ever sees half an adapter."""
    with _replacing(folder) as made:
        (made / CONFIG).write_text(_json(adapter.config), "utf-8")
        (made / WEIGHTS).write_bytes(adapter.weights)
        write_findings(made, adapter.report, adapter.samples)
        if adapter.merge is not None:
            (made / MERGED).mkdir()
            adapter.merge(made / MERGED)


def write_model(folder: Path, merge: Callable[[Path], None]) -> None:
    """The merged model alone, in a folder of its own."""
    with _replacing(folder) as made:
        merge(made)


def write_findings(folder: Path, report: Mapping[str, object], samples: Sequence[Conversation]) -> None:
    """What is known of an adapter, beside its weights; each file is replaced as a whole."""
    _replace_text(folder / REPORT, _json(report))
    if samples:
        _replace_text(folder / SAMPLES, "".join(_sample(row) for row in samples))


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """A new folder to fill; it takes the place of `folder` where the block ends well."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        yield made
        if folder.exists():
            folder.rename(Path(scratch) / "old")
        made.rename(folder)


def _sample(row: Conversation) -> str:
    messages = [{"role": message.role, "content": message.content} for message in row.prompt]
    return json.dumps({"messages": messages, "answer": row.answer}, ensure_ascii=False) + "\n"


def _replace_text(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text, "utf-8")
    unfinished.replace(path)


def _json(value: Mapping[str, object]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
