"""training.json: what the adapter was made of and what it is worth; no paths, since the folder may travel."""

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

from pointsman_lora_server.training import data
from pointsman_lora_server.training.job import DORA, TrainingOptions
from pointsman_lora_server.training.loop import recent_loss
from pointsman_lora_server.training.material import Dataset
from pointsman_lora_server.training.schedule import Record

LIBRARIES = ("torch", "transformers", "peft", "safetensors", "trl", "bitsandbytes")
MERGED_ONLY = "a DoRA adapter, which an engine cannot serve as one: serve the merged model"


@dataclass(frozen=True, slots=True)
class Outcome:
    record: Record
    why: str
    """Why training ended: "whole", "time" or "patience"."""
    before: Mapping[str, float]
    """What was measured before its first step."""
    metrics: Mapping[str, float]
    seconds: float


def training_report(job: TrainingOptions, base_digest: str, material: Dataset, outcome: Outcome) -> dict[str, object]:
    """`base_digest` is of the base model's weights; empty where nobody named it."""
    record, metrics = outcome.record, outcome.metrics
    losses = {"before": outcome.before.get("loss"), "end": metrics.get("heldout_loss")}
    return {
        "name": job.name,
        "base_model": job.base_model_name,
        "base_model_digest": base_digest,
        "parent": job.parent_name,
        "method": job.recipe.method,
        **({"served_as": MERGED_ONLY} if job.recipe.method == DORA else {}),
        "recipe": asdict(job.recipe),
        "data": _data(job, material),
        "steps": record.course.step,
        "ended_by": outcome.why,
        "best_step": record.best_step or record.course.step,
        "tokens": record.tokens,
        "loss": rounded(recent_loss(record.losses)),
        "heldout_loss": {when: rounded(loss) for when, loss in losses.items() if loss is not None},
        "exact_share": metrics.get("heldout_exact"),
        "evaluations": record.evaluations,
        "metrics": dict(metrics),
        "seconds": outcome.seconds,
        "libraries": libraries(),
    }


def evaluated_report(
    older: dict[str, object], job: TrainingOptions, material: Dataset, metrics: dict[str, float]
) -> dict[str, object]:
    """The older report with what was measured now."""
    data_facts = _data(job, material)
    evaluated = {key: value for key, value in data_facts.items() if key.startswith("heldout")}
    return older | {"metrics": metrics, "evaluated": {**evaluated, "shots": job.measuring.shots}}


def libraries() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _data(job: TrainingOptions, material: Dataset) -> dict[str, object]:
    return {
        "file": job.data.name,
        "sha256": data.sha256(job.data),
        "rows": len(material.training),
        "heldout_file": job.heldout.name if job.heldout else None,
        "heldout_sha256": data.sha256(job.heldout) if job.heldout else None,
        "heldout_share": None if job.heldout else job.heldout_share,
        "heldout_rows": material.examination.heldout_rows,
        "system_sha256": data.sha256(job.system) if job.system else None,
    }
