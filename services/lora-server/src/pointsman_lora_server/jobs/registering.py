"""What becomes of a trained adapter: it is registered, patiently; a merged model stays where it is."""

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any

from pointsman_servicekit.errors import FailedPrecondition, PointsmanError, ResourceExhausted, Unavailable

from pointsman_lora_server.jobs.folder import JobFolder
from pointsman_lora_server.jobs.job import Job, Register, TrainedAdapter

log = logging.getLogger(__name__)

TRIES = 8
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""Seconds between tries, doubled each time: four minutes in all."""


async def register(job: Job, folder: JobFolder, registering: Register) -> str:
    """The version. Raises PointsmanError where it is refused, or where nobody answers for minutes."""
    result = TrainedAdapter(
        name=job.order.name,
        folder=folder.out,
        word=job.order.word,
        force=job.order.force,
        facts=_facts(job, _report(folder)),
        parent=job.order.parent,
        author=job.order.author,
    )
    wait = FIRST_WAIT
    for _ in range(TRIES - 1):
        try:
            return await registering(result)
        except (Unavailable, ResourceExhausted) as error:
            log.warning("%s cannot be registered yet: %s", job.id, error.message)
            await asyncio.sleep(wait)
            wait = min(LONGEST_WAIT, 2 * wait)
    return await registering(result)


def in_words(error: PointsmanError, folder: JobFolder) -> str:
    """Where the registration failed, the adapter itself is there."""
    said = f"{error.message} ({error.code})"
    if isinstance(error, FailedPrecondition) and error.code == "not_better":
        return said  # it tells that the version is registered
    return f"{said}; the adapter is in {folder.out}" if folder.out.exists() else said


def _facts(job: Job, report: Mapping[str, Any]) -> dict[str, str]:
    recipe, data = report.get("recipe", {}), report.get("data", {})
    found = {
        "job": job.id,
        "method": job.order.method,
        "seed": recipe.get("seed"),
        "train_file": data.get("file"),
        "train_rows": data.get("rows"),
        "heldout_loss": report.get("metrics", {}).get("heldout_loss"),
    }
    return {**job.order.facts, **{name: str(value) for name, value in found.items() if value is not None}}


def _report(folder: JobFolder) -> Mapping[str, Any]:
    found = json.loads((folder.out / "training.json").read_text("utf-8"))
    return found if isinstance(found, dict) else {}
