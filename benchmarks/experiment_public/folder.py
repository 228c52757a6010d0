"""Writes the configuration folder from which `pointsman up` serves the paths of cells.

It contains the examples, paragraphs and adapters that these paths use.
"""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.experiment.folder import EXAMPLE, ROOT, Row, write_rows
from benchmarks.experiment_public import scoring
from benchmarks.experiment_public.cells import Cell, path_config
from benchmarks.experiment_public.sets import PublicSet

HERE = Path(__file__).parent
BASE_MODEL = "smollm2-135m"
MIN_EXAMPLES = 20
OTHER_TASK = ("Please write a poem", "Translate this letter into French", "Thanks, that is all", "Who are you?")
"""Examples of a second task, which the classifier needs. The experiment does not use the classifier: requests name
their path."""


@dataclass(frozen=True, slots=True)
class Model:
    """The base model of all paths."""

    source: str = BASE_MODEL
    """The model: smollm2-135m, an absolute folder, or a name at the Hugging Face hub."""
    prices: tuple[float, float, float] | None = None
    """Dollars per million tokens of prompts, of cached prompts, and of answers; None: the help desk's prices."""
    tuned_from: str = ""
    """The model from which all weights were trained; empty if they were not."""

    @property
    def name(self) -> str:
        """The name under which the engine serves it."""
        return Path(self.source).name if Path(self.source).is_absolute() else self.source


def write_folder(folder: Path, served: Mapping[Cell, Path | None], sets: Mapping[str, PublicSet], model: Model) -> Path:
    """`served` are the cells whose paths can be asked, with the folders of their adapters; without one the base model
    answers. A task's policy is its first path.
    """
    shutil.rmtree(folder, ignore_errors=True)
    first = {cell.set: cell for cell in reversed([*served])}
    content: dict[str, Any] = {
        "base_model": model.source,
        **_models(model),
        "paths": {cell.path_name: _path(cell, sets[cell.set], model, adapter) for cell, adapter in served.items()},
        "prompts": {name: text for used in first for name, text in _prompts(sets[used]).items()},
        "default_path": next(iter(served)).path_name,
        "tasks": {name: _task(cell, served, sets[name], folder) for name, cell in first.items()},
        "adapters": {
            _name(adapter): {"folder": str(adapter), "alias": "prod"} for adapter in served.values() if adapter
        },
    }
    if len(content["tasks"]) == 1:
        content["tasks"]["other"] = {"examples": list(OTHER_TASK), "policy": {"fixed": content["default_path"]}}
    if any(cell.uses_passages for cell in served):
        for paragraph, text in sets["xquad"].paragraphs.items():
            (folder / "paragraphs").mkdir(exist_ok=True)
            (folder / "paragraphs" / f"{paragraph}.txt").write_text(text, encoding="utf-8")
        content["collections"] = {"paragraphs": "paragraphs"}
    write_config(folder, content)
    return folder


def write_config(folder: Path, content: Mapping[str, Any]) -> None:
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    (folder / "pointsman.yaml").write_text(text, encoding="utf-8")


def _path(cell: Cell, public: PublicSet, model: Model, adapter: Path | None) -> dict[str, Any]:
    path = {"model": model.name, **path_config(cell, tuple(public.labels), tuple(public.slots))}
    return path | ({"adapter": f"{_name(adapter)}@prod"} if adapter else {})


def _task(cell: Cell, served: Mapping[Cell, Path | None], public: PublicSet, folder: Path) -> dict[str, Any]:
    rows = public.training_rows(max(cell.rows, MIN_EXAMPLES), cell.seed)
    file = f"{cell.set}.jsonl"
    write_rows((_example(row) for row in rows), folder / file)
    first, *others = [other.path_name for other in served if other.set == cell.set]
    metric = f"{(HERE / 'scoring.py').relative_to(ROOT)}:{scoring.METRICS[cell.set]}"
    return {"examples": file, "policy": {"fixed": first}, "fallback": others, "metric": {"entry_point": metric}}


def _example(row: Row) -> Row:
    """Returns an example; its label, if the set has any, is its intent."""
    return {"text": row["text"], "output": row["output"], **({"intent": row["label"]} if "label" in row else {})}


def _name(folder: Path) -> str:
    """Returns the name under which the adapter in `folder` is served, of at most 64 characters.

    Its last six characters differ between base models, whose adapters would have the same name otherwise.
    """
    return f"{folder.name}-{hashlib.sha256(str(folder.parent.name).encode()).hexdigest()[:6]}"[-64:]


def _models(model: Model) -> dict[str, object]:
    """Returns the help desk's models.yaml with this model in place of its own.

    Answers do not pay for the training, because its seconds depend on how busy the machine was.
    """
    content = yaml.safe_load((EXAMPLE / "config/models.yaml").read_text("utf-8"))
    del content["training"]
    (entry,) = content["models"].values()
    if model.prices:
        entry["usd_per_million_tokens"] = dict(zip(("prompt", "cached", "completion"), model.prices, strict=True))
    if model.tuned_from:
        entry["tuned_from"] = model.tuned_from
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
