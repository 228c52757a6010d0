"""Writes the folder of a cell for `pointsman up`: one task, one path, and the examples and paragraphs that it uses."""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.experiment.folder import EXAMPLE, write_rows
from benchmarks.experiment_public.cells import Cell, path_config
from benchmarks.experiment_public.sets import PublicSet

HERE = Path(__file__).parent
BASE_MODEL = "smollm2-135m"
MIN_EXAMPLES = 20
OTHER_TASK = ("Please write a poem", "Translate this letter into French", "Thanks, that is all", "Who are you?")
"""For the classifier, which needs examples and a second task. The experiment does not use it: requests name their
path.
"""


@dataclass(frozen=True, slots=True)
class Model:
    """The base model of all paths."""

    source: str = BASE_MODEL
    """smollm2-135m, an absolute folder, or a name at the Hugging Face hub."""
    prices: tuple[float, float, float] | None = None
    """Dollars per million tokens of prompts, of cached prompts, and of answers; None: those of the help desk."""

    @property
    def name(self) -> str:
        """The name under which the engine serves it."""
        return Path(self.source).name if Path(self.source).is_absolute() else self.source


def write_folder(folder: Path, cell: Cell, public: PublicSet, model: Model, adapter: Path | None) -> Path:
    """`adapter` is the folder of the trained weights; without one the base model answers."""
    shutil.rmtree(folder, ignore_errors=True)
    rows = public.training_rows(max(cell.rows, MIN_EXAMPLES), cell.seed)
    write_rows(({"text": row["text"], "output": row["output"]} for row in rows), folder / "examples.jsonl")
    path = {"model": model.name, **path_config(cell, tuple(public.labels), tuple(public.slots))}
    name = adapter_name(adapter) if adapter else ""
    content = {
        "base_model": model.source,
        **_models(model),
        "paths": {cell.path: path | ({"adapter": f"{name}@prod"} if adapter else {})},
        "prompts": _prompts(public),
        "default_path": cell.path,
        "tasks": {
            cell.set: {"examples": "examples.jsonl", "policy": {"fixed": cell.path}},
            "other": {"examples": list(OTHER_TASK), "policy": {"fixed": cell.path}},
        },
    }
    if adapter:
        content["adapters"] = {name: {"folder": str(adapter.absolute()), "alias": "prod"}}
    if cell.uses_passages:
        for paragraph, text in public.paragraphs.items():
            (folder / "paragraphs").mkdir(exist_ok=True)
            (folder / "paragraphs" / f"{paragraph}.txt").write_text(text, encoding="utf-8")
        content["collections"] = {"paragraphs": "paragraphs"}
    (folder / "pointsman.yaml").write_text(
        yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8"
    )
    return folder


def adapter_name(folder: Path) -> str:
    """Returns a name of at most 64 characters, different for each base model's folder of adapters."""
    return f"{folder.name}-{hashlib.sha256(str(folder.parent.name).encode()).hexdigest()[:6]}"[-64:]


def _models(model: Model) -> dict[str, object]:
    """Returns the help desk's models.yaml with this model in place of its own."""
    content = yaml.safe_load((EXAMPLE / "config/models.yaml").read_text("utf-8"))
    (entry,) = content["models"].values()
    if model.prices:
        entry["usd_per_million_tokens"] = dict(zip(("prompt", "cached", "completion"), model.prices, strict=True))
    content["models"] = {model.name: entry}
    for engine in content["engines"].values():
        engine["model"] = model.name
    return dict(content)


def _prompts(public: PublicSet) -> dict[str, str]:
    texts = yaml.safe_load((HERE / "prompts.yaml").read_text("utf-8"))
    used = {name: text for name, text in texts.items() if name.startswith(public.name) or name == "passages"}
    filled = {"LABELS": _joined(public.labels), "SLOTS": _joined(public.slots)}
    for marker, value in filled.items():
        used = {name: text.replace(marker, value) for name, text in used.items()}
    return used


def _joined(names: Sequence[str]) -> str:
    return ", ".join(names)
