"""Reads and writes an adapter's folder: PEFT configuration, weights, training report, held-out samples, and optionally
a merged model.

A new folder is filled under a temporary name and then renamed, so an unfinished folder is never visible.
"""

import enum
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pointsman_lora_server.training.data import Conversation
from pointsman_lora_server.training.exits import TrainingError

if TYPE_CHECKING:  # options names the methods, which use this module
    from pointsman_lora_server.training.options import TrainingOptions

CONFIG, WEIGHTS, REPORT = "adapter_config.json", "adapter_model.safetensors", "training.json"
SAMPLES = "samples.jsonl"
"""The name of the file with held-out rows, one JSON object a line: {"messages": [the prompt's messages], "answer":
"..."}."""
MERGED = "merged"
"""The name of the subfolder with the merged model (the base model with the adapter added to its weights). It is only
written for methods such as DoRA, whose adapters no engine can serve separately."""


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """The content of an adapter's folder: weights, PEFT configuration, training report, held-out samples, and perhaps a
    merged model.
    """

    weights: bytes
    """The adapter's weights, as the bytes of a safetensors file."""
    config: Mapping[str, object]
    report: Mapping[str, object]
    samples: Sequence[Conversation] = ()
    merge: Callable[[Path], None] | None = None
    """A function that writes the merged model into the existing folder that it is given; None if the adapter's folder
    gets no merged model."""


def check_target(folder: Path, option: str = "--out") -> None:
    """Raises TrainingError if `folder`, where the adapter would be written, is a file, or contains files other than
    those of an adapter.

    A missing or empty folder, and the folder of an earlier adapter, are accepted. `option` is the command-line option
    that names the folder; the error message mentions it.
    """
    if folder.exists() and not folder.is_dir():
        raise TrainingError(f"{option} {folder} is a file; name a folder")
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    unknown = sorted(names - {CONFIG, WEIGHTS, REPORT, SAMPLES, MERGED})
    if unknown:
        raise TrainingError(
            f"{option} {folder} contains {unknown[0]!r}, which does not belong to an adapter; name an empty or a new "
            "folder"
        )


def check_merged_target(folder: Path) -> None:
    """Raises TrainingError if `folder`, where the merged model would be written, is a file, or has content but no
    config.json.

    The folder may be missing or empty, or contain an earlier model (with a config.json), which will be replaced.
    """
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / "config.json").exists())):
        raise TrainingError(
            f"--merged-out {folder} contains something that is not a model; name an empty or a new folder"
        )


def write_adapter(folder: Path, adapter: AdapterFiles) -> None:
    """Writes an adapter's files to `folder`, and replaces the folder's earlier content. Raises TrainingError if that
    fails, for example because the disk is full; then the earlier content is unchanged.
    """
    with _replacing(folder) as new:
        (new / CONFIG).write_text(_to_json(adapter.config), "utf-8")
        (new / WEIGHTS).write_bytes(adapter.weights)
        write_report(new, adapter.report, adapter.samples)
        if adapter.merge is not None:
            (new / MERGED).mkdir()
            adapter.merge(new / MERGED)


def write_merged_model(folder: Path, merge: Callable[[Path], None]) -> None:
    with _replacing(folder) as new:
        merge(new)


def write_report(folder: Path, report: Mapping[str, object], samples: Sequence[Conversation]) -> None:
    """Writes the training report and the held-out samples into an adapter's folder; replaces each file atomically.

    If `samples` is empty, an existing file of samples is kept.
    """
    _replace_text(folder / REPORT, _to_json(report))
    if samples:
        _replace_text(folder / SAMPLES, "".join(_sample_line(row) for row in samples))


def to_plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns PEFT's configuration of an adapter as values that JSON can represent, with `inference_mode` set to true.

    Enums become their values. Sets become sorted lists, so that the hash of adapter_config.json does not depend on the
    order of a set.
    """
    return {key: _to_plain(value) for key, value in sorted(config.items())} | {"inference_mode": True}


def read_parent_config(folder: Path, options: "TrainingOptions") -> dict[str, Any]:
    """Returns the adapter_config.json of the parent adapter in `folder`, with whose weights training starts.

    Raises TrainingError if the file cannot be read, the adapter is not a LoRA of the base model that `options` name, or
    the training method cannot continue from it.
    """
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"--init-from {folder}: {CONFIG} cannot be read: {error}; name an adapter's folder"
        ) from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA" or not (folder / WEIGHTS).is_file():
        raise TrainingError(f"--init-from {folder} is not the folder of a LoRA adapter with {WEIGHTS}")
    base = config.get("base_model_name_or_path")
    if base != options.base_model_name:
        raise TrainingError(
            f"--init-from {folder} belongs to the base model {base!r}, not to {options.base_model_name!r}"
        )
    options.method.check_parent(folder, config)
    return config


def with_parent_recipe(options: "TrainingOptions") -> "TrainingOptions":
    """Returns `options` with the rank and alpha of the parent adapter, with whose weights training starts; returns
    `options` unchanged if there is no parent.

    Raises TrainingError if the parent's configuration cannot be read, the parent is not a LoRA adapter of this base
    model, or the training method cannot continue from it.
    """
    if options.parent is None:
        return options
    config = read_parent_config(options.parent, options)
    return replace(options, recipe=replace(options.recipe, rank=int(config["r"]), alpha=int(config["lora_alpha"])))


def weights_digest(folder: Path) -> str:
    """Returns the SHA-256, in hexadecimal, of the weights file in an adapter's folder."""
    with (folder / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """Yields a new folder to fill, which replaces `folder` if the block succeeds. Raises TrainingError if a file or
    folder cannot be written; then `folder` is as before.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
            new = Path(scratch) / "new"
            new.mkdir()
            yield new
            _swap(folder, new, Path(scratch) / "old")
    except OSError as error:
        raise TrainingError(f"{folder} cannot be written: {error.strerror or error}") from error


def _swap(folder: Path, new: Path, old: Path) -> None:
    """Renames `folder`, if it exists, to `old`, and `new` to `folder`."""
    if folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise


def _sample_line(row: Conversation) -> str:
    messages = [{"role": message.role, "content": message.content} for message in row.prompt]
    return json.dumps({"messages": messages, "answer": row.answer}, ensure_ascii=False) + "\n"


def _replace_text(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text, "utf-8")
    unfinished.replace(path)


def _to_json(value: Mapping[str, object]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _to_plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    return sorted(value) if isinstance(value, set | frozenset) else value
