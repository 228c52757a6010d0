"""Measures an adapter that is there already, and writes its report and samples anew; its weights stay as they are."""

import json
import time
from dataclasses import replace

from pointsman_lora_server.training import adapter_files, batches, budget, loop, report
from pointsman_lora_server.training.adapter_config import as_parent
from pointsman_lora_server.training.data import Split
from pointsman_lora_server.training.errors import TrainingError
from pointsman_lora_server.training.evaluation import Evaluator
from pointsman_lora_server.training.job import DORA, LORA, TrainingOptions
from pointsman_lora_server.training.learner import open_learner
from pointsman_lora_server.training.loop import Tell
from pointsman_lora_server.training.run import Warn, objective_for, prepare


def measure(job: TrainingOptions, rows: Split, started: float, tell: Tell, warn: Warn) -> None:
    """Raises `TrainingError`, where there is no adapter in `job.out` among others."""
    older = _report(job)
    method = DORA if _config(job).get("use_dora") else LORA
    job = as_parent(replace(job, parent=job.out, recipe=replace(job.recipe, method=method)))
    base, material = prepare(job, rows, tell, warn)
    if not material.asked:
        raise TrainingError("--evaluate-only needs held-out rows: name them with --heldout")
    learner = open_learner(base, job, material.longest)
    objective = objective_for(job, base, learner, material)
    planned = batches.plan(material.training, 1, job.recipe.tokens_per_step, job.recipe.seed)
    shares = budget.share_out(job, material, base, loop.measure(learner, objective, planned))
    evaluation = Evaluator(job, base, learner, objective, shares, tell)
    metrics = {f"heldout_{name}": round(value, 4) for name, value in objective.measure().items()}
    verdict = evaluation.final(started + 60 * job.max_minutes - budget.SECONDS_TO_WRITE)
    for note in verdict.notes:
        warn(note)
    metrics |= verdict.metrics
    tell("evaluation", when="end", step=0, **{name.removeprefix("heldout_"): value for name, value in metrics.items()})
    adapter_files.write_findings(job.out, report.evaluated_report(older, job, material, metrics), material.kept)
    tell("done", folder=str(job.out), seconds=round(time.monotonic() - started, 1), steps=0, metrics=metrics)


def _report(job: TrainingOptions) -> dict[str, object]:
    try:
        found = json.loads((job.out / adapter_files.REPORT).read_text("utf-8"))
    except FileNotFoundError:
        return {"name": job.name, "base_model": job.base_model_name}
    except (OSError, ValueError) as error:
        raise TrainingError(f"{job.out / adapter_files.REPORT} cannot be read: {error}") from error
    return dict(found)


def _config(job: TrainingOptions) -> dict[str, object]:
    try:
        return dict(json.loads((job.out / adapter_files.CONFIG).read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise TrainingError(f"--evaluate-only: there is no adapter in {job.out}: {error}") from error
